"""How the cost grows with image size, batch size, number of photographs and of processes.

    python benchmarks/growth.py --png growth.png       # all of it, under 10 minutes on 2 cores
    python benchmarks/growth.py --quick                # a minute, to see that it works
    python benchmarks/growth.py --only image-size batch-size --device cuda

Draws each cost over what it grows with, both axes logarithmic, with the power law fitted by least
squares: a straight line whose slope is the exponent. The table holds the exponents with their 95 %
intervals beside those of the algorithm itself (its FLOPs, or the number of things to do), and says
from which image size on attention over points, which alone grows with the square of the number of
pixels, is most of the work.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.growth_sweeps import (
    Curve,
    over_batch_size,
    over_image_size,
    over_photographs,
    over_processes,
    work,
    write_photographs,
)
from benchmarks.measuring import Result, Row, add_arguments
from benchmarks.scaling_laws import TwoTerms, counted_terms
from errors import UserError, run_cli
from run_folder import replacing
from util import keep_freed_memory

SWEEPS = ("image-size", "batch-size", "photographs", "processes")
MODELS = ("delegate_nano", "delegate_base")
LARGEST, LARGEST_NANO, LARGEST_QUICK = 672, 1024, 512  # pixels a side
BATCHES = (1, 2, 4, 8, 16)
PHOTOGRAPHS = (1_000, 2_000, 5_000, 10_000, 20_000)
QUICK = (200, 500, 1_000)  # photographs with --quick
PROCESSES = (1, 2, 4)
SHARES_AT = (224, 448, 672, 1344)  # pixels a side, for which shares are drawn


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--models", nargs="+", help=f"default {' '.join(MODELS)}")
    parser.add_argument("--only", nargs="+", choices=SWEEPS, default=SWEEPS)
    parser.add_argument("--device", default="cpu", help="of the networks, but not of photographs")
    parser.add_argument("--quick", action="store_true", help=f"{MODELS[0]}, few and small steps")
    parser.add_argument("--png", type=Path, metavar="FILE", help="draw the curves")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    add_arguments(parser)
    return parser.parse_args()


def measure(args: argparse.Namespace) -> list[Curve]:
    """All curves that the command line asks for."""
    names, batches, photographs, processes = MODELS, BATCHES, PHOTOGRAPHS, PROCESSES
    if args.quick:
        names, batches, photographs, processes = MODELS[:1], BATCHES[:4], QUICK, PROCESSES[:2]
    curves: list[Curve] = []
    for name in args.models or names:
        if "image-size" in args.only:
            largest = LARGEST_NANO if name == "delegate_nano" else LARGEST
            largest = LARGEST_QUICK if args.quick else largest
            curves += over_image_size(name, largest, args.repeats, args.device)
        if "batch-size" in args.only:
            curves += over_batch_size(name, batches, args.repeats, args.device)
    if "photographs" in args.only:
        with tempfile.TemporaryDirectory() as folder:
            folders = write_photographs(Path(folder), photographs)
            curves += over_photographs(folders, args.repeats)
    if "processes" in args.only:
        curves += over_processes(processes, args.repeats)
    return curves


def exponents(curves: Sequence[Curve]) -> str:
    """A line a curve: its ends, its exponent with the 95 % interval, and the one it needs."""
    head = f"{'':12} {'':44}{'from':>8}{'to':>8}{'first':>10}{'last':>10}"
    lines = [f"{head}{'exponent':>10}{'95 % interval':>18}{'needed':>8}"]
    for curve in curves:
        xs, costs, law = list(curve.values), list(curve.medians.values()), curve.law
        low, high = law.interval
        interval = "–" if math.isnan(low) else f"{low:.2f} … {high:.2f}"
        needed = "–" if curve.needed is None else f"{curve.needed:.2f}"
        lines.append(
            f"{curve.panel:12} {f'{curve.name} ({curve.unit})':44}{xs[0]:8}{xs[-1]:8}"
            f"{costs[0]:10.4g}{costs[-1]:10.4g}{law.exponent:10.2f}{interval:>18}{needed:>8}"
        )
    return "\n".join(lines)


def points_terms(curves: Sequence[Curve]) -> dict[str, TwoTerms]:
    """What grows with the pixels and with their square, by network and cost, as measured and as
    counted."""
    terms = {}
    for curve in curves:
        if curve.panel == "image size":
            name = curve.name.partition(",")[0]
            terms[f"{name}, FLOPs"] = counted_terms(name)
            cost = "seconds" if curve.unit == "s" else "memory"
            terms[f"{name}, {cost}"] = TwoTerms.fit(
                list(curve.values), list(curve.medians.values())
            )
    return terms


def dominance(terms: dict[str, TwoTerms]) -> str:
    """From which image size on attention over points is more than half, a line a cost."""
    lines = ["share of what grows with the square of the pixels: attention over points"]
    for name, fitted in terms.items():
        shares = ", ".join(f"{fitted.square_share(side):.1%} at {side}" for side in SHARES_AT)
        side = fitted.crossing
        where = f"from {side:.0f} pixels a side on" if math.isfinite(side) else "at no size"
        lines.append(f"{name:26} {shares}; most of it {where}")
    return "\n".join(lines)


def draw(curves: Sequence[Curve], terms: dict[str, TwoTerms], path: Path) -> None:
    """Write the curves as a PNG: a panel for each pair of what grows and what it costs."""
    panels: dict[tuple[str, str], list[Curve]] = {}
    for curve in curves:
        panels.setdefault((curve.panel, curve.unit), []).append(curve)
    count_of = len(panels) + bool(terms)
    columns = min(3, count_of)
    rows = -(-count_of // columns)
    figure = Figure(figsize=(5.4 * columns, 4.2 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel in axes[count_of:]:
        panel.set_axis_off()
    for panel, ((over, unit_of), group) in zip(axes, panels.items(), strict=False):
        draw_costs(panel, group)
        panel.set(xlabel=over, ylabel="seconds" if unit_of == "s" else unit_of)
    if terms:
        draw_shares(axes[count_of - 1], terms)
    with replacing(path) as temporary:
        FigureCanvasAgg(figure).print_png(str(temporary))


def draw_costs(axes: Axes, curves: Sequence[Curve]) -> None:
    """Medians with their spread, and the fitted power laws as lines."""
    axes.set(xscale="log", yscale="log")
    for curve in curves:
        xs, medians = np.array(list(curve.values)), np.array(list(curve.medians.values()))
        spread = [
            medians - [min(values) for values in curve.values.values()],
            [max(values) for values in curve.values.values()] - medians,
        ]
        label = f"{curve.name}: exponent {curve.law.exponent:.2f}"
        dots = axes.errorbar(xs, medians, yerr=spread, fmt="o", ms=4, capsize=3, label=label)
        axes.plot(xs, curve.law(xs), color=dots[0].get_color(), linewidth=1)
    ticks = sorted({x for curve in curves for x in curve.values})
    set_ticks(axes, ticks)
    low, high = axes.get_ylim()
    middle, half = math.sqrt(low * high), math.sqrt(10)  # a decade, so that a flat curve looks flat
    axes.set_ylim(min(low, middle / half), max(high, middle * half))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


def set_ticks(axes: Axes, ticks: Sequence[int]) -> None:
    """Plain numbers at the places themselves, along the logarithmic x axis."""
    axes.xaxis.set(major_locator=FixedLocator(ticks), minor_locator=NullLocator())
    axes.xaxis.set(major_formatter=FuncFormatter(lambda x, _: f"{x:,.0f}"))
    axes.tick_params(axis="x", labelrotation=45 if len(ticks) > 6 else 0)


def draw_shares(axes: Axes, terms: dict[str, TwoTerms]) -> None:
    """Share of attention over points, and where it becomes the larger part."""
    sides = np.geomspace(128, 3000, 100)
    for name, fitted in terms.items():
        style = "-" if name.endswith("FLOPs") else "--" if name.endswith("seconds") else ":"
        shares = [100 * fitted.square_share(side) for side in sides]
        half = f"half at {fitted.crossing:.0f}" if math.isfinite(fitted.crossing) else "never half"
        axes.plot(sides, shares, style, label=f"{name}: {half}")
    axes.axhline(50, color="0.5", linewidth=0.8)
    axes.set(xscale="log", xlabel="image size", ylabel="share of attention over points, %")
    set_ticks(axes, [128, *SHARES_AT, 2688])
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


def result_of(curves: Sequence[Curve], device: str) -> Result:
    """All medians and exponents as rows; as ratios, the throughput at a curve's end by that at its
    start, where that means something."""
    result = Result("growth", torch.device(device).type)
    for curve in curves:
        for x, values in curve.values.items():
            result.rows.append(Row.of(f"{curve.name}, {curve.panel} {x}", curve.unit, values))
    for curve in curves:
        law, number = curve.law, len(curve.values)
        low, high = (law.exponent if math.isnan(end) else end for end in law.interval)
        name = f"{curve.name} over {curve.panel}"
        result.rows.append(Row(name, "exponent", law.exponent, low, high, number))
        if curve.work is not None:
            first, *_, last = curve.values
            key = f"{curve.name}, {curve.panel} {last} / {first}"
            result.ratios[key] = curve.throughput
    return result


def main() -> None:
    """Measure, print, draw."""
    args = parse_arguments()
    if args.worker:
        work(args.worker)
        return
    if args.png and args.png.suffix != ".png":
        raise UserError(f"--png {args.png}: the suffix must be .png")
    keep_freed_memory()
    threads = torch.get_num_threads()
    where = args.device if args.device != "cpu" else f"CPU, {threads} threads"
    print(f"{where}, torch {torch.__version__}, medians of {args.repeats}")
    curves = measure(args)
    terms = points_terms(curves)
    print(exponents(curves))
    if terms:
        print(dominance(terms))
    if args.png:
        draw(curves, terms, args.png)
    result_of(curves, args.device).save(args.json)


if __name__ == "__main__":
    run_cli(main)
