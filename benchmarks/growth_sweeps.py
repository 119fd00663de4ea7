"""What `benchmarks/growth.py` measures, over image size, batch size, photographs and processes."""

from __future__ import annotations

import csv
import ctypes
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from benchmarks.measuring import process_memory, seconds_in_turn
from benchmarks.scaling_laws import PowerLaw, count, unit
from distributed import parallel, process_group, rank, world
from labels import DataSpec, load_splits
from models import build_model
from photo_sources import iter_sources
from scoring import score_photos
from util import bootstrap_intervals

SIZE_BATCH = 4  # images at once while their size grows
PICTURES = 50  # different ones among the synthetic photographs
SCORING_BATCH = 16
RESAMPLES = 100  # of the bootstrap
STEP_IMAGES = 32  # of a training step, shared by its processes


@dataclass(frozen=True)
class Curve:
    """A cost, measured several times at each x."""

    panel: str  # what x is
    name: str
    unit: str  # s or GiB
    needed: float | None = None  # the exponent that the algorithm itself has
    work: float | None = None  # exponent of the work done; None: throughput says nothing here
    values: dict[int, list[float]] = field(default_factory=dict)  # x: one cost a repeat

    @property
    def medians(self) -> dict[int, float]:
        """x: median cost."""
        return {x: float(np.median(values)) for x, values in self.values.items()}

    @property
    def law(self) -> PowerLaw:
        """The power law of the medians."""
        return PowerLaw.fit(list(self.values), list(self.medians.values()))

    @property
    def throughput(self) -> float:
        """Work a second at the last x, as a multiple of that at the first."""
        (first, before), *_, (last, after) = self.medians.items()
        return (last / first) ** self.work * before / after


def forward(model: nn.Module, images: torch.Tensor) -> Callable[[], torch.Tensor]:
    """A function that runs the network once."""

    def run() -> torch.Tensor:
        with torch.inference_mode():
            return model(images)

    return run


def memory_of(run: Callable[[], object], device: str) -> float:
    """GiB that `run` needs at its peak, beyond what is there before; nan where that is not told."""
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return (torch.cuda.max_memory_allocated(device) - before) / 2**30
    peak = Path("/proc/self/clear_refs")
    if not peak.exists():
        run()
        return float("nan")
    ctypes.CDLL(None).malloc_trim(0)  # freed memory that the process keeps would hide the need
    peak.write_text("5")  # see proc(5): the peak starts anew
    before = process_memory("VmRSS")[0]
    run()
    return process_memory("VmHWM")[0] - before


def over_inputs(
    panel: str,
    name: str,
    inputs: dict[int, tuple[int, int]],
    repeats: int,
    device: str,
    work: float | None = None,
) -> list[Curve]:
    """Seconds and GiB of a forward pass of network `name`; inputs: {x: (batch, image size)}."""
    torch.manual_seed(0)
    flops = {x: batch * count(name, size).total for x, (batch, size) in inputs.items()}
    needed = PowerLaw.fit(list(flops), list(flops.values())).exponent
    memory = Curve(panel, f"{name}, memory", "GiB")
    models: dict[int, nn.Module] = {}
    runs = {}
    for x, (batch, size) in inputs.items():
        if size not in models:
            models[size] = build_model(name, image_size=size, point_pooling="image").to(device)
        runs[x] = forward(models[size].eval(), torch.randn(batch, 3, size, size, device=device))
        runs[x]()  # what is set up once does not count
        memory.values[x] = [memory_of(runs[x], device)]
    seconds = seconds_in_turn(runs, repeats, warm_up=False, device=device)
    curves = [Curve(panel, f"{name}, forward", "s", needed, work, seconds), memory]
    return curves if np.isfinite(list(memory.medians.values())).all() else curves[:1]


def over_image_size(name: str, largest: int, repeats: int, device: str) -> list[Curve]:
    """A forward pass at every size that the network takes, up to `largest` pixels a side, and at
    two of them at least."""
    step = unit(name)
    sizes = range(step, max(largest, 2 * step) + 1, step)
    inputs = {size: (SIZE_BATCH, size) for size in sizes}
    return over_inputs("image size", name, inputs, repeats, device)


def over_batch_size(name: str, batches: Sequence[int], repeats: int, device: str) -> list[Curve]:
    """A forward pass at the network's own image size."""
    inputs = {batch: (batch, unit(name)) for batch in batches}
    return over_inputs("batch size", name, inputs, repeats, device, work=1.0)


def write_photographs(folder: Path, counts: Sequence[int]) -> dict[int, Path]:
    """A folder with that many small JPEGs, and a table of their scores, for each of `counts`."""
    rng = np.random.default_rng(0)
    pictures = []
    for index in range(PICTURES):
        coarse = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        pictures.append(folder / f"{index}.jpg")
        picture = Image.fromarray(coarse).resize((96, 72), Image.Resampling.BICUBIC)
        picture.save(pictures[-1], quality=90)
    folders = {}
    for number in counts:
        root = folders[number] = folder / str(number)
        (root / "images").mkdir(parents=True)
        with (root / "train.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["file", "score"])
            for index in range(number):
                name = f"{index:06d}.jpg"
                os.link(pictures[index % PICTURES], root / "images" / name)
                table.writerow([name, round(rng.uniform(1, 9), 3)])
    return folders


def over_photographs(folders: dict[int, Path], repeats: int) -> list[Curve]:
    """Listing and reading labels for each folder, metrics for as many, scoring the largest."""

    def listing(root: Path) -> int:
        return sum(1 for _ in iter_sources([str(root / "images")]))

    def labels(root: Path) -> None:
        spec = DataSpec(
            "csv", root, train_csv=root / "train.csv", image_root=root / "images",
            score_columns=("score",), score_range=(1, 9),
        )  # fmt: skip
        load_splits(spec)

    def metrics(number: int) -> None:
        scores = np.random.default_rng(0).uniform(1, 9, (2, number))
        bootstrap_intervals(*scores, 5.0, samples=RESAMPLES, seed=0)

    ways = {
        "listing a folder": lambda number: listing(folders[number]),
        "reading labels": lambda number: labels(folders[number]),
        f"metrics, {RESAMPLES} resamples": metrics,
    }
    curves = [
        Curve("photographs", name, "s", 1.0, values=_measure_all(way, list(folders), repeats))
        for name, way in ways.items()
    ]
    return [*curves, *_scoring(folders)]


def _measure_all(
    way: Callable[[int], object], counts: Sequence[int], repeats: int
) -> dict[int, list[float]]:
    runs = {number: lambda number=number: way(number) for number in counts}
    return seconds_in_turn(runs, repeats)


def _scoring(folders: dict[int, Path]) -> list[Curve]:
    """Seconds after which that many photographs are scored, of one stream, and its memory."""
    seconds = Curve("photographs", "scoring, delegate_nano", "s", 1.0, work=1.0)
    memory = Curve("photographs", "scoring, memory of the process", "GiB", 0.0)
    model = build_model("delegate_nano", recipe="ours").eval()
    options = {"batch_size": SCORING_BATCH, "workers": os.cpu_count() or 1, "timeout": 1.0}
    sources = list(iter_sources([str(folders[max(folders)] / "images")]))
    warm = score_photos(model, sources[: 10 * SCORING_BATCH], **options)
    for _ in chain.from_iterable(warm):
        pass
    started, done = time.perf_counter(), 0
    for rows in score_photos(model, sources, **options):
        done += len(rows)
        for number in folders.keys() - seconds.values.keys():
            if done >= number:
                seconds.values[number] = [time.perf_counter() - started]
                memory.values[number] = process_memory("VmRSS")
    return [seconds, memory]


def over_processes(counts: Sequence[int], repeats: int) -> list[Curve]:
    """A training step of `STEP_IMAGES` images, shared by processes of one thread each (gloo)."""
    name = f"training step, {STEP_IMAGES} images, delegate_nano"
    curve = Curve("processes", name, "s", work=0.0)
    script = Path(__file__).with_name("growth.py")
    for processes in counts:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += [f"--nproc_per_node={processes}", str(script), "--worker", f"{repeats}"]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        answer = subprocess.run(
            command, env=environment, check=True, stdout=subprocess.PIPE, text=True
        ).stdout
        curve.values[processes] = json.loads(answer.strip().splitlines()[-1])
    return [curve]


def work(repeats: int) -> None:
    """One of the processes of `over_processes`: rank 0 prints its seconds a step as JSON."""
    torch.set_num_threads(1)
    with process_group():
        torch.manual_seed(rank())
        model = parallel(build_model("delegate_nano", recipe="ours"), torch.device("cpu"))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.0)
        size = unit("delegate_nano")
        images = torch.randn(STEP_IMAGES // world(), 3, size, size)

        def step() -> None:
            optimizer.zero_grad(set_to_none=True)
            (model(images) - 0.5).square().mean().backward()
            optimizer.step()

        print(json.dumps(seconds_in_turn({"step": step}, repeats)["step"]))
