"""Images a second in training and inference, compiled and in bf16, against plain float32.

    python benchmarks/gpu_speed.py                                   # delegate_base on the GPU
    python benchmarks/gpu_speed.py --images FOLDER --weights runs/x  # bf16 scores of photographs
    python benchmarks/gpu_speed.py --device cpu --model delegate_nano --batch 4   # to try it

Synthetic images on the device. In one run: the released order of operations in float32
(plain_layout.py), ours as it is in bf16, ours through torch.compile in bf16. Also: the share of a
measured matmul peak that the network's own operations reach (model FLOP utilisation), the ten
kernels that take most of the time, before and after, and how far bf16 scores are from float32's.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.measuring import (
    Result,
    Row,
    add_arguments,
    format_table,
    seconds_in_turn,
)
from benchmarks.plain_layout import PlainDelegateTransformer
from images import open_rgb
from models import build_model, count_flops, load_model, to_released_state_dict
from models.delegate_transformer import ColorAesthetics
from preprocessing import normalise, resize

KERNELS = 10
BACKWARD = 2  # a training step costs this many forward passes more
SCORING_BATCH = 50


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="delegate_base")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--device", default="cuda")
    parser.add_argument(
        "--mode",
        default="default",
        choices=("default", "reduce-overhead", "max-autotune"),
        help="of torch.compile; reduce-overhead: CUDA graphs",
    )
    parser.add_argument("--steps", type=int, default=10, help="passes a repeat")
    parser.add_argument("--images", type=Path, help="folder of JPEGs to score in bf16")
    parser.add_argument("--weights", help="of the network that scores them (default: random)")
    add_arguments(parser)
    return parser.parse_args()


def matmul_flops(device: str) -> float:
    """FLOP/s of a large bf16 matrix product: the most that a network could reach."""
    side, products = (8192, 20) if device != "cpu" else (1024, 5)
    a = torch.randn(side, side, device=device, dtype=torch.bfloat16)
    times = seconds_in_turn({"matmul": lambda: [a @ a for _ in range(products)]}, 5, device=device)
    return products * 2 * side**3 / min(times["matmul"])


def networks(args: argparse.Namespace) -> dict[str, nn.Module]:
    """The three networks, with the same random weights; batch neighbours play no part in ours."""
    torch.manual_seed(0)
    model = build_model(args.model, point_pooling="image").to(args.device)
    plain = PlainDelegateTransformer(model.config).to(args.device)
    plain.load_state_dict(to_released_state_dict(model, tied=True))
    compiled = build_model(args.model, point_pooling="image").to(args.device)
    compiled.load_state_dict(model.state_dict())
    compiled.compile(fullgraph=True, mode=args.mode)
    return {"plain, float32": plain, "ours, bf16": model, "ours, bf16, compiled": compiled}


def stepper(
    name: str, model: nn.Module, images: Tensor, training: bool
) -> tuple[Callable[[], None], int]:
    """One forward pass, or one training step with a fused optimizer where the network is ours, and
    the number of images it takes: all, or the half, the quarter … that there is memory for."""
    ours = name.startswith("ours")
    optimizer = torch.optim.Adam(model.parameters(), lr=0.0, fused=ours or None)
    autocast = torch.autocast(images.device.type, torch.bfloat16, enabled=ours)

    def step(images: Tensor) -> None:
        model.train(training)
        with autocast, torch.inference_mode(not training):
            scores = model(images)
        if training:
            optimizer.zero_grad(set_to_none=True)
            (scores.float() - 0.5).square().mean().backward()
            optimizer.step()

    batch = fitting_batch(step, images)
    images = images[:batch]
    return lambda: step(images), batch


def fitting_batch(step: Callable[[Tensor], None], images: Tensor) -> int:
    """Number of images that `step` has memory for: all, the half, the quarter …

    Raises torch.OutOfMemoryError where it has none for one.
    """
    batch = len(images)
    while True:
        try:
            step(images[:batch])
            return batch
        except torch.OutOfMemoryError:
            if batch == 1:
                raise
        batch //= 2  # outside of the handler, whose traceback holds the tensors of the pass
        if images.device.type == "cuda":
            torch.cuda.empty_cache()


def kernel_table(step: Callable[[], None], device: str) -> str:
    """The kernels (on a CPU: operators) of one step that take most time, with their share."""
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device != "cpu")
    with profile(activities=activities) as profiler:
        step()
        if device != "cpu":
            torch.cuda.synchronize()
    field = "self_cpu_time_total" if device == "cpu" else "self_device_time_total"
    events = sorted(profiler.key_averages(), key=lambda event: -getattr(event, field))
    total = sum(getattr(event, field) for event in events)
    lines = [
        f"{getattr(event, field) / total:6.1%} {getattr(event, field) / 1000:9.2f} ms "
        f"{event.count:5}  {event.key[:80]}"
        for event in events[:KERNELS]
    ]
    return "\n".join([f" share      time  calls  of {total / 1000:.1f} ms", *lines])


def photographs(folder: Path | None, size: int) -> Tensor:
    """N×3×S×S normalised photographs of `folder`; noise where none is given."""
    if folder is None:
        return torch.randn(SCORING_BATCH, 3, size, size)
    paths = sorted(folder.glob("*.jpg"))
    return normalise(torch.stack([resize(open_rgb(path), size) for path in paths]))


@torch.inference_mode()
def agreement(model: ColorAesthetics, images: Tensor, device: str) -> tuple[float, float]:
    """Largest difference of bf16 scores from float32's, and the SRCC of the two (first target)."""
    model.eval()
    scores = {}
    for enabled in (False, True):
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=enabled):
            parts = [model(batch.to(device)) for batch in images.split(SCORING_BATCH)]
        scores[enabled] = torch.cat(parts).float().cpu()
    exact, rounded = scores[False], scores[True]
    return float((exact - rounded).abs().max()), float(spearmanr(exact[:, 0], rounded[:, 0])[0])


def main() -> None:
    """Measure and print."""
    args = parse_arguments()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    device = torch.device(args.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"{args.model}, batch {args.batch}, {name}, torch {torch.__version__}, mode {args.mode}")
    peak = matmul_flops(args.device)
    print(f"bf16 matmul: {peak / 1e12:.1f} TFLOP/s")
    models = networks(args)
    config = models["ours, bf16"].config
    flops = count_flops(models["ours, bf16"])
    images = torch.randn(args.batch, 3, config.image_size, config.image_size, device=device)
    result = Result("gpu_speed", device.type)
    for mode, passes in (("inference", 1), ("training", 1 + BACKWARD)):
        steps = {key: stepper(key, model, images, passes > 1) for key, model in models.items()}
        repeated = {
            key: lambda step=step: [step() for _ in range(args.steps)]
            for key, (step, _) in steps.items()
        }
        times = seconds_in_turn(repeated, args.repeats, device=args.device)
        for key, seconds in times.items():
            step, batch = steps[key]
            rates = [args.steps * batch / s for s in seconds]
            row = Row.of(f"{mode}, {key}", "images/s", rates)
            result.rows.append(row)
            share = row.median * flops * passes / peak
            rate = f"{row.median:.0f} images/s, {share:.1%} of the matmul peak"
            print(f"{row.name}, batch {batch}: {rate}")
            print(kernel_table(step, args.device) + "\n", flush=True)
        baseline, _, best = (row.median for row in result.rows[-3:])
        result.ratios[f"{mode}, compiled bf16 / plain float32"] = best / baseline
    scorer = load_model(args.weights).to(device) if args.weights else models["ours, bf16"]
    scored = photographs(args.images, scorer.config.image_size)
    difference, srcc = agreement(scorer, scored, args.device)
    what = args.images.name if args.images else "noise"
    print(f"bf16 against float32 scores on {what}: at most {difference:.2e} apart, SRCC {srcc:.5f}")
    print(format_table(result))
    result.save(args.json)


if __name__ == "__main__":
    main()
