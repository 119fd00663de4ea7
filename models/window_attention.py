"""Window attention of the local layers (Swin; the released code shifts by ⌈w/2⌉)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def partition(x: Tensor, window: int) -> Tensor:
    """Cut B×H×W×C maps into windows: (B·n)×w²×C, n windows in row-major order."""
    B, H, W, C = x.shape
    x = x.view(B, H // window, window, W // window, window, C)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, window * window, C)


def unpartition(windows: Tensor, window: int, H: int, W: int) -> Tensor:
    """The inverse of `partition`: (B·n)×w²×C back to B×H×W×C."""
    C = windows.shape[-1]
    x = windows.view(-1, H // window, W // window, window, window, C)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, H, W, C)


def relative_position_index(window: int) -> Tensor:
    """w²×w² rows of the bias table, one for each pair of tokens of a window."""
    rows, columns = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
    rows, columns = rows.flatten(), columns.flatten()
    dy = rows[:, None] - rows[None, :] + window - 1
    dx = columns[:, None] - columns[None, :] + window - 1
    return dy * (2 * window - 1) + dx


def shift_mask(size: int, window: int, shift: int) -> Tensor:
    """n×w²×w² mask of −100 between tokens that only the cyclic shift has made neighbours."""
    strip = torch.zeros(size)
    strip[size - window : size - shift] = 1
    strip[size - shift :] = 2
    region = (3 * strip[:, None] + strip[None, :]).view(1, size, size, 1)
    region = partition(region, window).squeeze(-1)
    return torch.where(region[:, :, None] == region[:, None, :], 0.0, -100.0)


class WindowAttention(nn.Module):
    """Multi-head attention inside windows of w×w tokens, cyclically shifted where `shift` > 0."""

    def __init__(self, dim: int, heads: int, size: int, window: int, shift: int = 0) -> None:
        super().__init__()
        self.heads, self.window, self.shift = heads, window, shift
        self.position_bias_table = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.position_bias_table, std=0.01)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.output = nn.Linear(dim, dim)
        # Computed from the sizes, so no part of the saved weights.
        self.register_buffer("position_index", relative_position_index(window), persistent=False)
        mask = shift_mask(size, window, shift) if shift else None
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """B×H×W×C → B×H×W×C."""
        B, H, W, C = x.shape
        if self.shift:
            x = torch.roll(x, (-self.shift, -self.shift), dims=(1, 2))
        windows = partition(x, self.window)  # (B·n)×N×C
        N = windows.shape[1]
        qkv = self.qkv(windows).view(-1, N, 3, self.heads, C // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B·n)×h×N×d
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=self._bias(B))
        out = self.output(out.transpose(1, 2).reshape(-1, N, C))
        x = unpartition(out, self.window, H, W)
        return torch.roll(x, (self.shift, self.shift), dims=(1, 2)) if self.shift else x

    def _bias(self, batch: int) -> Tensor:
        """1×h×N×N position bias, or (B·n)×h×N×N with the mask of shifted windows added."""
        N = self.window**2
        bias = self.position_bias_table[self.position_index.flatten()].view(N, N, self.heads)
        bias = bias.permute(2, 0, 1)[None]
        if self.mask is None:
            return bias
        return (bias + self.mask[:, None]).repeat(batch, 1, 1, 1)
