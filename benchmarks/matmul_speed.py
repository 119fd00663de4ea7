"""The matrix products of a network's linear layers by MKL, oneDNN and our own code, on the CPU.

    python benchmarks/matmul_speed.py                   # delegate_base, batch 8, 2 threads

GFLOP/s over all shapes of linear layers, each as often as the network has it: the result, the
gradient of its input, the gradients of its weights and bias (`models/native/linear.cpp`). Kept: the
weight in the order in which it is read, as in evaluation.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.measuring import Result, Row, add_arguments, format_table, seconds_in_turn
from errors import UserError, run_cli
from models import build_model
from models.linear import (
    Linear,
    native_input_gradient,
    native_linear,
    native_weight_gradients,
    ordered_weight,
)
from models.native_code import runs_native
from util import keep_freed_memory

Shape = tuple[int, int, int]  # tokens, inputs, outputs


def shapes(name: str, batch: int) -> Counter[Shape]:
    """How often each product occurs in a forward pass of `batch` images."""
    with torch.device("meta"):
        model = build_model(name).eval()
        images = torch.empty(batch, 3, model.config.image_size, model.config.image_size)
    found: Counter[Shape] = Counter()

    def count(layer: Linear, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        found[output.numel() // layer.out_features, layer.in_features, layer.out_features] += 1

    for layer in model.modules():
        if isinstance(layer, Linear):
            layer.register_forward_hook(count)
    model(images)
    return found


def products(shape: Shape) -> dict[tuple[str, str], Callable[[], object]]:
    """The three products of one shape, by each library."""
    tokens, dim_in, dim_out = shape
    x, gradient = torch.randn(tokens, dim_in), torch.randn(tokens, dim_out)
    weight, bias = torch.randn(dim_out, dim_in), torch.randn(dim_out)
    onednn_weight, ordered = torch.ops.mkldnn._reorder_linear_weight(weight), ordered_weight(weight)
    return {
        ("result", "MKL"): lambda: F.linear(x, weight, bias),
        ("result", "oneDNN"): lambda: onednn_linear(x, weight, bias),
        ("result", "our own"): lambda: native_linear(x, weight, bias),
        ("result", "oneDNN, kept"): lambda: onednn_linear(x, onednn_weight, bias),
        ("result", "our own, kept"): lambda: native_linear(x, weight, bias, ordered=ordered),
        ("gradient of the input", "MKL"): lambda: gradient @ weight,
        ("gradient of the input", "oneDNN"): lambda: onednn_linear(gradient, weight.t(), None),
        ("gradient of the input", "our own"): lambda: native_input_gradient(gradient, weight),
        ("gradients of weights and bias", "MKL"): lambda: (gradient.t() @ x, gradient.sum(0)),
        ("gradients of weights and bias", "oneDNN"): lambda: (
            onednn_linear(gradient.t(), x.t(), None),
            gradient.sum(0),
        ),
        ("gradients of weights and bias", "our own"): lambda: native_weight_gradients(
            gradient, x, weight
        ),
    }


def onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """What F.linear gives."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def total_seconds(counts: Counter[Shape], repeats: int) -> dict[tuple[str, str], list[float]]:
    """Seconds of all products of a network, by repeat."""
    totals: dict[tuple[str, str], list[float]] = {}
    for shape, times in counts.items():
        for key, seconds in seconds_in_turn(products(shape), repeats).items():
            before = totals.setdefault(key, [0.0] * repeats)
            totals[key] = [a + times * b for a, b in zip(before, seconds, strict=True)]
    return totals


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", default="delegate_base")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    add_arguments(parser)
    args = parser.parse_args(argv)
    if not (runs_native(torch.empty(1)) and hasattr(torch.ops.mkldnn, "_linear_pointwise")):
        raise UserError("there is nothing to compare: no oneDNN for x86-64, or no compiler")
    keep_freed_memory()
    torch.set_num_threads(args.threads)
    counts = shapes(args.model, args.batch)
    flops = sum(2 * n * tokens * i * o for (tokens, i, o), n in counts.items())
    result = Result("matmul_speed", "cpu")
    with torch.inference_mode():
        totals = total_seconds(counts, args.repeats)
    for (product, library), seconds in totals.items():
        rates = [flops / s / 1e9 for s in seconds]
        result.rows.append(Row.of(f"{product}, {library}", "GFLOP/s", rates))
    rates = {row.name: row.median for row in result.rows}
    for product, library in totals:
        if library != "MKL":
            ratio = rates[f"{product}, {library}"] / rates[f"{product}, MKL"]
            result.ratios[f"{product}, {library} / MKL"] = ratio
    print(f"{args.model}, batch {args.batch}: {flops / 1e9:.1f} GFLOP in {counts.total()} products")
    print(format_table(result))
    result.save(args.json)


if __name__ == "__main__":
    run_cli(main)
