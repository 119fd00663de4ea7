"""Depthwise convolution of channels-last maps whose groups of channels share one kernel."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from models.native_code import call, runs_native


class GroupedDepthwise(nn.Conv2d):
    """k×k depthwise convolution, zero-padded by ⌊k/2⌋, of each group of c channels."""

    def __init__(self, channels: int, kernel: int, stride: int) -> None:
        super().__init__(channels, channels, kernel, stride, kernel // 2, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        """B×S×S×G×c → B×s×s×G×c, s = ⌈S/stride⌉."""
        if runs_native(x, self.weight):
            return _Depthwise.apply(x, self.weight, self.bias, self.stride[0])
        B, _, _, G, _ = x.shape
        maps = super().forward(x.permute(0, 3, 4, 1, 2).flatten(0, 1))  # (B·G)×c×s×s
        return maps.unflatten(0, (B, G)).permute(0, 3, 4, 1, 2)


class _Sizes(ctypes.Structure):
    """`Depthwise` of depthwise.cpp."""

    _fields_ = [
        (name, ctypes.c_int64)
        for name in ("images", "side", "groups", "channels", "kernel", "stride")
    ]


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
        x = x.contiguous()
        rows = _rows(weight)
        ctx.save_for_backward(x, weight)
        ctx.sizes = _sizes(x, weight, stride)
        side = -(-x.shape[1] // stride)
        result = x.new_empty(len(x), side, side, *x.shape[3:])
        call("depthwise", ctx.sizes, x, rows, bias, result)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        rows = _rows(weight)
        gradient, of_x = gradient.contiguous(), torch.zeros_like(x)
        of_rows = x.new_zeros(len(x) * x.shape[3], *rows.shape)
        call("depthwise_gradient", ctx.sizes, x, rows, gradient, of_x, of_rows)
        of_weight = of_rows.sum(dim=0).t().reshape(weight.shape)
        return of_x, of_weight, gradient.sum(dim=(0, 1, 2, 3)), None


def _rows(weight: Tensor) -> Tensor:
    """c×1×k×k → k²×c."""
    return weight.flatten(1).t().contiguous()


def _sizes(x: Tensor, weight: Tensor, stride: int) -> _Sizes:
    B, S, _, G, c = x.shape
    return _Sizes(B, S, G, c, weight.shape[-1], stride)
