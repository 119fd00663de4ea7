"""Linear layers: on a CPU by oneDNN's kernels, and with their input made again in backward.

PyTorch multiplies float32 matrices on a CPU by MKL, which is about a tenth slower than oneDNN on
AMD's processors (`benchmarks/RESULTS.md`); both come with it and round alike.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.autograd.graph import get_gradient_edge

from models.gelu import gelu as gelu_function
from models.kept import Kept
from models.native_code import call, runs_native
from models.precision import is_plain_float32
from models.training_cost import recomputed

Before = Callable[[Tensor], Tensor]


class Linear(nn.Linear):
    """x → W·before(x) + b, and with `gelu` its GELU.

    `before` is a module, or a function that reads no parameters. For the backward pass x is kept,
    and before(x) is made again.
    """

    def __init__(self, dim_in: int, dim_out: int) -> None:
        super().__init__(dim_in, dim_out)
        self.kept_weight = Kept()  # in the order in which oneDNN reads it

    def forward(self, x: Tensor, before: Before | None = None, gelu: bool = False) -> Tensor:
        """…×C → …×C'."""
        on_onednn = runs_on_onednn(x, self.weight)
        if on_onednn and not torch.is_grad_enabled():
            weight = self.kept_weight(self.weight, self._ordered_weight)
            return onednn_linear(_apply(before, x), weight, self.bias, gelu)
        if on_onednn:
            parameters = before.parameters() if isinstance(before, nn.Module) else ()
            x = _OneDnnLinear.apply(x, self.weight, self.bias, before, *parameters)
        elif before is None:
            x = super().forward(x)
        else:
            x = recomputed(lambda x: super(Linear, self).forward(before(x)), x)
        return gelu_function(x) if gelu else x

    def _ordered_weight(self) -> Tensor:
        return torch.ops.mkldnn._reorder_linear_weight(self.weight.detach())


def _apply(function: Before | None, x: Tensor) -> Tensor:
    return x if function is None else function(x)


def runs_on_onednn(x: Tensor, weight: Tensor) -> bool:
    """Whether `onednn_linear` serves: float32 on an x86-64 CPU, and torch built with oneDNN."""
    return (
        is_plain_float32(x, weight)
        and torch.backends.mkldnn.enabled
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool = False) -> Tensor:
    """What F.linear gives, or its GELU in the same pass. Knows no gradients."""
    activation, algorithm = ("gelu", "none") if gelu else ("none", "")
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], algorithm)


def weight_and_bias_gradients(gradient: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Of weight C'×C and bias C', from the gradient of the result, …×C', and the input x, …×C."""
    gradient, x = gradient.flatten(0, -2), x.flatten(0, -2)
    if not (len(x) and runs_native(gradient, x)):
        return gradient.t() @ x, gradient.sum(dim=0)
    of_weight, of_bias = torch.empty_like(weight), weight.new_empty(len(weight))
    tensors = (gradient.contiguous(), x.contiguous(), of_weight, of_bias)
    call("weight_gradient", *tensors, len(x), *weight.shape)
    return of_weight, of_bias


class _OneDnnLinear(torch.autograd.Function):
    """`Linear`'s result and gradients. The gradient of the weights, a product over all tokens, is
    left to MKL, which shares such long sums among threads better."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        before: Before | None,
        *parameters: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, *parameters)
        ctx.before = before
        return onednn_linear(_apply(before, x), weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, *parameters = ctx.saved_tensors
        for_x, for_weight, for_bias, _, *for_parameters = ctx.needs_input_grad
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            made = _apply(ctx.before, x)
            edge = get_gradient_edge(made)  # all that is asked of it once the weights have theirs
        of_parameters = None, None
        if for_weight or for_bias:
            of_parameters = weight_and_bias_gradients(gradient, made.detach(), weight)
        del made
        needed = [for_x, *for_parameters]
        asked = [leaf for leaf, need in zip([x, *parameters], needed, strict=True) if need]
        made_gradient = onednn_linear(gradient, weight.t(), None) if asked else None
        found = iter(torch.autograd.grad(edge, asked, made_gradient) if asked else ())
        x_gradient, *parameter_gradients = (next(found) if need else None for need in needed)
        return x_gradient, *of_parameters, None, *parameter_gradients
