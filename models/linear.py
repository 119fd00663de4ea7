"""Linear layers: on a CPU by code of our own, with GELU of their input made again in backward.

PyTorch multiplies float32 matrices on a CPU by MKL, which is slower on AMD's processors, reads and
writes GELU's numbers in passes of their own, and sums the bias's gradient in another
(`benchmarks/matmul_speed.py`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from models.gelu import gelu as gelu_function
from models.kept import Kept
from models.native_code import call, runs_native
from models.training_cost import recomputed

PANEL = 32  # native/linear.cpp orders weights in panels of so many outputs, or of half as many


class Linear(nn.Linear):
    """x → W·x + b, or W·GELU(x) + b, for whose backward pass x alone is kept."""

    def __init__(self, dim_in: int, dim_out: int) -> None:
        super().__init__(dim_in, dim_out)
        self.kept_weight = Kept()  # in the order in which our own code reads it

    def forward(self, x: Tensor, gelu: bool = False) -> Tensor:
        """…×C → …×C'."""
        if x.numel() and runs_native(x, self.weight):
            if torch.is_grad_enabled():
                return _Linear.apply(x, self.weight, self.bias, gelu)
            ordered = self.kept_weight(self.weight, lambda: ordered_weight(self.weight))
            return native_linear(x, self.weight, self.bias, gelu, ordered)
        if gelu:
            return recomputed(lambda x: super(Linear, self).forward(gelu_function(x)), x)
        return super().forward(x)


def ordered_weight(weight: Tensor) -> Tensor:
    """C'×C in the order in which native/linear.cpp multiplies by it."""
    weight = weight.detach().contiguous()
    outputs, inputs = weight.shape
    ordered = weight.new_empty(-(-outputs // PANEL) * PANEL * inputs)
    call("linear_order", weight, ordered, inputs, outputs)
    return ordered


def native_linear(
    x: Tensor, weight: Tensor, bias: Tensor, gelu: bool = False, ordered: Tensor | None = None
) -> Tensor:
    """…×C → …×C': W·x + b, or W·GELU(x) + b; ordered: what `ordered_weight` made of W. Knows no
    gradients."""
    outputs, inputs = weight.shape
    result = x.new_empty(*x.shape[:-1], outputs)
    tensors = (x.contiguous(), weight.contiguous(), ordered, bias.contiguous(), result)
    call("linear", *tensors, x.numel() // inputs, inputs, outputs, gelu)
    return result


def native_input_gradient(gradient: Tensor, weight: Tensor, x: Tensor | None = None) -> Tensor:
    """…×C' → …×C: the gradient of the input x of W·x, or of W·GELU(x) where x is given."""
    outputs, inputs = weight.shape
    result = gradient.new_empty(*gradient.shape[:-1], inputs)
    x = None if x is None else x.contiguous()
    tensors = (gradient.contiguous(), weight.contiguous(), x, result)
    call("linear_input_gradient", *tensors, gradient.numel() // outputs, inputs, outputs)
    return result


def native_weight_gradients(
    gradient: Tensor, x: Tensor, weight: Tensor, gelu: bool = False
) -> tuple[Tensor, Tensor]:
    """C'×C and C': the gradients of the weight and bias of W·x + b, or of W·GELU(x) + b, from that
    of the result, …×C'."""
    outputs, inputs = weight.shape
    of_weight, of_bias = weight.new_empty(weight.shape), weight.new_empty(outputs)
    tensors = (gradient.contiguous(), x.contiguous(), of_weight, of_bias)
    call("linear_weight_gradient", *tensors, x.numel() // inputs, inputs, outputs, gelu)
    return of_weight, of_bias


class _Linear(torch.autograd.Function):
    """`native_linear` with gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, gelu: bool) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x, weight)
        ctx.gelu = gelu
        return native_linear(x, weight, bias, gelu)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        gradient = gradient.contiguous()
        for_x, for_weight, for_bias, _ = ctx.needs_input_grad
        of_x = of_weight = of_bias = None
        if for_weight or for_bias:
            of_weight, of_bias = native_weight_gradients(gradient, x, weight, ctx.gelu)
        if for_x:
            of_x = native_input_gradient(gradient, weight, x if ctx.gelu else None)
        return of_x, of_weight, of_bias, None
