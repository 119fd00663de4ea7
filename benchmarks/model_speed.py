"""Forward pass and training step of a network: ours against the released code's plain layout.

    python benchmarks/model_speed.py                          # delegate_base, batch 8, 2 threads
    python benchmarks/model_speed.py --device cuda --batch 128 --amp bf16 --compile

Each runs in a process of its own, and they take turns, step by step, so that the ratio is fair on a
busy machine, too:

ours      the project's network, as train_nni.py runs it: memory kept by the process, fused Adam
plain     the released order of operations (plain_layout.py), float32, torch's default Adam
released  the same without the memory kept, which is how the released code runs on a CPU

Peak memory is that of weights, gradients, optimizer and activations: of the process, less what it
has after its imports. Stochastic depth draws anew each step, and ours leaves out what it drops:
hence the spread.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.measuring import (
    Result,
    Row,
    add_arguments,
    format_table,
    process_memory,
    synchronize,
)
from benchmarks.plain_layout import PlainDelegateTransformer
from models import build_model, to_released_state_dict
from util import keep_freed_memory

MODES = ("forward", "training step")
WARM_UP = 4  # steps: the first get their memory from the system, twice as slowly


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="delegate_base")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--amp", choices=("off", "bf16"), default="off", help="of ours")
    parser.add_argument("--compile", action="store_true", help="ours through torch.compile")
    parser.add_argument("--serve", nargs=2, metavar=("LAYOUT", "MODE"), help=argparse.SUPPRESS)
    add_arguments(parser)
    return parser.parse_args()


def build(layout: str, args: argparse.Namespace) -> nn.Module:
    """A network with random weights, the same for all layouts."""
    torch.manual_seed(0)
    model = build_model(args.model)
    if layout != "ours":
        plain = PlainDelegateTransformer(model.config)
        plain.load_state_dict(to_released_state_dict(model, tied=True))
        model = plain
    elif args.compile:
        model.compile()
    return model.to(args.device)


def stepper(layout: str, mode: str, args: argparse.Namespace) -> Callable[[], float]:
    """A function that runs one pass over a batch and returns the seconds it took an image."""
    model = build(layout, args)
    size = build_model(args.model).config.image_size
    images = torch.randn(args.batch, 3, size, size, device=args.device)
    amp = layout == "ours" and args.amp == "bf16"
    training = mode == "training step"
    model.train(training)
    optimizer = (
        torch.optim.Adam(model.parameters(), lr=0.0, fused=layout == "ours" or None)
        if training
        else None
    )

    def step() -> float:
        synchronize(args.device)
        started = time.perf_counter()
        if optimizer is not None:
            optimizer.zero_grad(set_to_none=True)
        with (
            torch.inference_mode(not training),
            torch.autocast(torch.device(args.device).type, torch.bfloat16, enabled=amp),
        ):
            scores = model(images)
        if optimizer is not None:
            (scores.float() - 0.5).square().mean().backward()
            optimizer.step()
        synchronize(args.device)
        return (time.perf_counter() - started) / args.batch

    return step


def serve(layout: str, mode: str, args: argparse.Namespace) -> None:
    """Run a step for each line that comes in, and print its seconds and the peak memory so far."""
    torch.set_num_threads(args.threads)
    if layout != "released":
        keep_freed_memory()
    (libraries,) = process_memory("VmRSS")  # no network asks for less
    step = stepper(layout, mode, args)
    for _ in sys.stdin:
        seconds = step()
        if args.device == "cpu":
            peak = process_memory("VmHWM")[0] - libraries
        else:
            peak = torch.cuda.max_memory_allocated() / 2**30
        print(seconds, peak, flush=True)


class Server:
    """A process that runs steps of one layout when asked to."""

    def __init__(self, layout: str, mode: str) -> None:
        command = [sys.executable, *sys.argv, "--serve", layout, mode]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.seconds: list[float] = []
        self.memory = 0.0

    def step(self, *, measured: bool = True) -> None:
        """One step; what it took counts if `measured`."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        seconds, self.memory = map(float, self.process.stdout.readline().split())
        if measured:
            self.seconds.append(seconds)

    def close(self) -> None:
        """End the process."""
        self.process.communicate()


def measure(mode: str, args: argparse.Namespace) -> tuple[list[Row], dict[str, float]]:
    """Seconds an image and peak GiB of every layout, and how much better ours is."""
    # On a GPU nothing is to be said of memory that the C library keeps.
    layouts = ("ours", "plain", "released") if args.device == "cpu" else ("ours", "plain")
    servers = {layout: Server(layout, mode) for layout in layouts}
    for server in servers.values():
        for _ in range(WARM_UP):
            server.step(measured=False)
    for _ in range(args.repeats):
        for server in servers.values():
            server.step()
    rows = []
    for layout, server in servers.items():
        server.close()
        rows.append(Row.of(f"{mode}, {layout}", "s/image", server.seconds))
        rows.append(Row.of(f"{mode}, {layout}: peak memory", "GiB", [server.memory]))
    times, memory = rows[::2], rows[1::2]
    ratios = {}
    for layout, time_row, memory_row in zip(layouts[1:], times[1:], memory[1:], strict=True):
        ratios[f"{mode}, {layout} / ours"] = time_row.median / times[0].median
        ratios[f"{mode}, {layout} / ours: memory"] = memory_row.median / memory[0].median
    return rows, ratios


def main() -> None:
    """Measure and print."""
    args = parse_arguments()
    if args.serve:
        serve(*args.serve, args)
        return
    where = args.device if args.device != "cpu" else f"CPU, {args.threads} threads"
    kind = f"{args.amp}{', compiled' if args.compile else ''}"
    print(f"{args.model}, batch {args.batch}, {where}, torch {torch.__version__}, ours: amp {kind}")
    result = Result("model_speed", torch.device(args.device).type)
    for mode in MODES:
        rows, ratios = measure(mode, args)
        result.rows.extend(rows)
        result.ratios.update(ratios)
    print(format_table(result))
    result.save(args.json)


if __name__ == "__main__":
    main()
