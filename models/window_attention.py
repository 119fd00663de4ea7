"""Window attention of the local layers (Swin; the released code shifts by ⌈w/2⌉)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.attention import attention
from models.fused_attention import window_attention
from models.kept import Kept
from models.linear import Linear
from models.native_code import runs_native
from models.training_cost import recomputed


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
        self.qkv = Linear(dim, 3 * dim)
        self.output = Linear(dim, dim)
        # Computed from the sizes, so no part of the saved weights.
        self.register_buffer("position_index", relative_position_index(window), persistent=False)
        places = torch.arange(size * size, dtype=torch.int32).view(1, size, size, 1)
        places = partition(torch.roll(places, (-shift, -shift), dims=(1, 2)), window).squeeze(2)
        self.register_buffer("places", places, persistent=False)  # n×N tokens of the map
        mask = shift_mask(size, window, shift) if shift else None
        self.register_buffer("mask", mask, persistent=False)
        self.kept_bias = Kept()

    def forward(self, x: Tensor) -> Tensor:
        """B×H×W×C → B×H×W×C."""
        B, H, W, _ = x.shape
        if runs_native(x, self.position_bias_table):
            qkv = self.qkv(x).flatten(1, 2)
            bias = self.kept_bias(self.position_bias_table, self._bias)
            out = window_attention(qkv, bias, self.places)
            return self.output(out.view(x.shape))
        if self.shift:
            x = torch.roll(x, (-self.shift, -self.shift), dims=(1, 2))
        qkv = self.qkv(partition(x, self.window))  # (B·n)×N×3C
        out = self.output(recomputed(self._attend, qkv, B))
        x = unpartition(out, self.window, H, W)
        return torch.roll(x, (self.shift, self.shift), dims=(1, 2)) if self.shift else x

    def _attend(self, qkv: Tensor, batch: int) -> Tensor:
        """(B·n)×N×3C → (B·n)×N×C."""
        qkv = qkv.unflatten(2, (3, self.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B·n)×h×N×d
        bias = self.kept_bias(self.position_bias_table, self._bias)
        out = attention(q, k, v, bias, repeats=None if self.mask is None else batch)
        return out.transpose(1, 2).flatten(2)

    def _bias(self) -> Tensor:
        """(1 | n)×h×N×N: position bias of one image's windows, shifted ones with their mask."""
        # Not by indexing: torch adds up the gradient of that in an order that changes on a CPU.
        bias = F.embedding(self.position_index, self.position_bias_table)
        bias = bias.permute(2, 0, 1)[None]
        return bias if self.mask is None else bias + self.mask[:, None]
