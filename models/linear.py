"""Linear layers: on a CPU by oneDNN's kernels, and with their input made again in backward.

PyTorch multiplies float32 matrices on a CPU by MKL, which is about a tenth slower than oneDNN on
AMD's processors (`benchmarks/RESULTS.md`); both come with it and round alike.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from models.kept import Kept
from models.training_cost import recomputed


class Linear(nn.Linear):
    """x → after(W·before(x) + b): `before` a norm or an activation, `after` a GELU, or neither.

    For the backward pass x is kept, and before(x) is made again.
    """

    def __init__(self, dim_in: int, dim_out: int) -> None:
        super().__init__(dim_in, dim_out)
        self.kept_weight = Kept()  # in the order in which oneDNN reads it

    def forward(
        self, x: Tensor, before: nn.Module | None = None, after: nn.GELU | None = None
    ) -> Tensor:
        """…×C → …×C'."""
        if not runs_on_onednn(x, self.weight):
            if before is None:
                return _apply(after, super().forward(x))
            return _apply(after, recomputed(lambda x: super(Linear, self).forward(before(x)), x))
        if torch.is_grad_enabled():
            parameters = [] if before is None else before.parameters()
            x = _OneDnnLinear.apply(x, self.weight, self.bias, before, *parameters)
            return _apply(after, x)
        weight = self.kept_weight(self.weight, self._ordered_weight)
        return onednn_linear(_apply(before, x), weight, self.bias, gelu=after is not None)

    def _ordered_weight(self) -> Tensor:
        return torch.ops.mkldnn._reorder_linear_weight(self.weight.detach())


def _apply(module: nn.Module | None, x: Tensor) -> Tensor:
    return x if module is None else module(x)


def runs_on_onednn(x: Tensor, weight: Tensor) -> bool:
    """Whether `onednn_linear` serves: float32 on a CPU, outside of graphs that are being traced."""
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and torch.backends.mkldnn.enabled
        and _has_onednn()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


@cache
def _has_onednn() -> bool:
    """Whether torch was built with oneDNN, and for an x86-64, where it was measured."""
    is_x86 = torch.backends.cpu.get_cpu_capability().startswith("AVX")
    return is_x86 and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool = False) -> Tensor:
    """What F.linear gives, or its GELU in the same pass. Knows no gradients."""
    activation, algorithm = ("gelu", "none") if gelu else ("none", "")
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], algorithm)


class _OneDnnLinear(torch.autograd.Function):
    """`Linear`'s result and gradients. The gradient of the weights, a product over all tokens, is
    left to MKL, which shares such long sums among threads better."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        before: nn.Module | None,
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
        rows, columns = gradient.reshape(-1, len(weight)), made.detach().flatten(0, -2)
        weight_gradient = rows.t() @ columns if for_weight else None
        bias_gradient = rows.sum(dim=0) if for_bias else None
        needed = [for_x, *for_parameters]
        asked = [leaf for leaf, need in zip([x, *parameters], needed, strict=True) if need]
        found = iter(())
        if asked:
            found = iter(
                torch.autograd.grad(made, asked, onednn_linear(gradient, weight.t(), None))
            )
        x_gradient, *parameter_gradients = (next(found) if need else None for need in needed)
        return x_gradient, weight_gradient, bias_gradient, None, *parameter_gradients
