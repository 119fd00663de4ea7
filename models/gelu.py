"""GELU with the exact normal distribution: on a CPU by one pass of our own each way."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.native_code import call, runs_native


def gelu(x: Tensor) -> Tensor:
    """x·Φ(x), any shape: as F.gelu, to 3e-7 of x; its gradient likewise."""
    return _Gelu.apply(x) if runs_native(x) else F.gelu(x)


class _Gelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x)
        result = torch.empty_like(x)
        call("gelu", x, result, x.numel())
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        result = torch.empty_like(x)
        call("gelu_gradient", x, gradient.contiguous(), result, x.numel())
        return result
