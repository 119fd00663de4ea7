"""Ø of equation 4: bilinear sampling of maps at points, zero outside of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.native_code import call, runs_native
from models.precision import at_least_float32

BILINEAR = ZEROS = 0  # interpolation and padding, as grid_sampler_2d numbers them


def sample_bilinear(maps: Tensor, points: Tensor) -> Tensor:
    """N×C×H×W maps at N×…×2 points (y, x) in [−1, 1] → N×C×…; −1 and 1 are the centres of the
    first and last cells."""
    return sample_at_xy(maps, points.flip(-1))


def sample_at_xy(maps: Tensor, points: Tensor) -> Tensor:
    """`sample_bilinear` at points (x, y), the order that torch reads.

    Not by F.grid_sample, which on a GPU calls cuDNN: torch.compile could not join that to what
    follows, and torch's deterministic mode does not know it.
    """
    return torch.grid_sampler_2d(maps, points, BILINEAR, ZEROS, align_corners=True)


def sample_groups(maps: Tensor, points: Tensor) -> Tensor:
    """B×H×W×C maps, each of G groups of channels at points of its own, B×G×N×2 (y, x) → B×N×C, in
    float32 or finer."""
    maps = at_least_float32(maps)
    if runs_native(maps, points):
        return _SampleGroups.apply(maps, points)
    B, H, W, C = maps.shape
    G, N = points.shape[1:3]
    groups = maps.view(B, H, W, G, C // G).permute(0, 3, 4, 1, 2).reshape(B * G, C // G, H, W)
    sampled = sample_bilinear(groups, points.reshape(B * G, 1, N, 2))
    return sampled.view(B, C, N).transpose(1, 2)


class _SampleGroups(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, maps: Tensor, points: Tensor) -> Tensor:
        maps, points = maps.contiguous(), points.contiguous()
        ctx.save_for_backward(maps, points)
        result = maps.new_empty(len(maps), points.shape[2], maps.shape[3])
        call("sample", maps, points, result, *_sizes(maps, points))
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        maps, points = ctx.saved_tensors
        of_maps, of_points = torch.zeros_like(maps), torch.empty_like(points)
        tensors = (maps, points, gradient.contiguous(), of_maps, of_points)
        call("sample_gradient", *tensors, *_sizes(maps, points))
        return of_maps, of_points


def _sizes(maps: Tensor, points: Tensor) -> tuple[int, ...]:
    """Images, height, width, groups, channels of a group, points."""
    G, N = points.shape[1:3]
    return *maps.shape[:3], G, maps.shape[3] // G, N
