"""Forward pass and training step of a network: ours against the released code's plain layout.

    python benchmarks/model_speed.py                          # delegate_base, batch 8, 2 threads
    python benchmarks/model_speed.py --device cuda --batch 128 --amp bf16

Both run in turn in one process on the same synthetic input, so that the ratio is fair on a busy
machine, too; the plain layout always in float32. Peak memory comes from a process for each. Prints
a table: median, least and most of the repeats, per image, and ratios plain / ours.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.plain_layout import PlainDelegateTransformer
from models import build_model, to_released_state_dict
from util import keep_freed_memory

LAYOUTS = ("ours", "plain")
MODES = ("forward", "training step")


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="delegate_base")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--amp", choices=("off", "bf16"), default="off", help="of ours")
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    parser.add_argument("--memory-of", nargs=2, metavar=("LAYOUT", "MODE"), help=argparse.SUPPRESS)
    return parser.parse_args()


def build(layout: str, args: argparse.Namespace) -> nn.Module:
    """A network with random weights, the same for both layouts."""
    torch.manual_seed(0)
    model = build_model(args.model)
    if layout == "plain":
        plain = PlainDelegateTransformer(model.config)
        plain.load_state_dict(to_released_state_dict(model, tied=True))
        model = plain
    return model.to(args.device)


def stepper(layout: str, mode: str, args: argparse.Namespace) -> Callable[[], float]:
    """A function that runs one pass over a batch and returns the seconds it took an image."""
    model = build(layout, args)
    size = build_model(args.model).config.image_size
    images = torch.randn(args.batch, 3, size, size, device=args.device)
    amp = layout == "ours" and args.amp == "bf16"
    training = mode == "training step"
    model.train(training)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.0) if training else None

    def step() -> float:
        synchronize(args.device)
        started = time.perf_counter()
        with (
            torch.inference_mode(not training),
            torch.autocast(torch.device(args.device).type, torch.bfloat16, enabled=amp),
        ):
            scores = model(images)
        if optimizer is not None:
            optimizer.zero_grad(set_to_none=True)
            (scores.float() - 0.5).square().mean().backward()
            optimizer.step()
        synchronize(args.device)
        return (time.perf_counter() - started) / args.batch

    return step


def synchronize(device: str) -> None:
    """Wait for the GPU, where there is one."""
    if device != "cpu":
        torch.cuda.synchronize()


def peak_memory(layout: str, mode: str, args: argparse.Namespace) -> float:
    """GiB at the peak of two steps: of this process, or of the GPU."""
    step = stepper(layout, mode, args)
    step()
    step()
    if args.device == "cpu":  # not getrusage's: that starts at what the parent process had
        peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        return int(peak[1]) / 2**20
    return torch.cuda.max_memory_allocated() / 2**30


def memory_in_a_new_process(layout: str, mode: str) -> float:
    """`peak_memory`, with this command line, in a process of its own."""
    command = [sys.executable, *sys.argv, "--memory-of", layout, mode]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure(mode: str, args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Seconds an image and peak GiB, by layout."""
    steps = {layout: stepper(layout, mode, args) for layout in LAYOUTS}
    for step in steps.values():  # warm up
        step()
    times: dict[str, list[float]] = {layout: [] for layout in LAYOUTS}
    for _ in range(args.repeats):
        for layout, step in steps.items():
            times[layout].append(step())
    steps.clear()
    return {
        layout: {
            "median": statistics.median(values),
            "min": min(values),
            "max": max(values),
            "memory": memory_in_a_new_process(layout, mode),
        }
        for layout, values in times.items()
    }


def main() -> None:
    """Measure and print."""
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    if args.memory_of:
        print(peak_memory(*args.memory_of, args))
        return
    where = args.device if args.device != "cpu" else f"CPU, {args.threads} threads"
    print(f"{args.model}, batch {args.batch}, {where}, torch {torch.__version__}, ours: {args.amp}")
    print(
        f"{'seconds an image':16}{'layout':>8}{'median':>10}{'min':>10}{'max':>10}{'peak GiB':>10}"
    )
    results = {}
    for mode in MODES:
        results[mode] = measure(mode, args)
        for layout, row in results[mode].items():
            figures = "".join(f"{row[k]:10.4f}" for k in ("median", "min", "max", "memory"))
            print(f"{mode:16}{layout:>8}{figures}")
        ratio = {
            k: results[mode]["plain"][k] / results[mode]["ours"][k] for k in ("median", "memory")
        }
        print(
            f"{mode:16}{'ratio':>8}{ratio['median']:9.2f}×{'':20}{ratio['memory']:9.2f}×",
            flush=True,
        )
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
