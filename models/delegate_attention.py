"""Delegate attention: few sampled points stand for the whole map (paper, equations 2 to 4)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

OFFSET_RANGE = 2.0  # in cells of the regular grid
GATE_SHARPNESS = 99999.0  # α of eq. 3


@dataclass(frozen=True)
class DelegateTrace:
    """What one delegate layer saw. Coordinates are (y, x) in [−1, 1], −1 and 1 being the centres
    of the first and last row or column.

    With `point_pooling="batch"` one set of interest points and gates serves all images.
    """

    interest_points: Tensor  # H×W×2 ("batch") or B×H×W×2 ("image")
    offsets: Tensor | None  # B×G×H×W×2, after damping
    gate: Tensor | None  # H×W or B×H×W, 0 (closed: the point moves to the centre) or 1
    points: Tensor  # B×G×H×W×2: (offsets + interest points) · gate
    attention: Tensor  # B×heads×HW×HW: query position, point


def regular_grid(height: int, width: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """H×W×2 (y, x) centres of the cells of a map that spans [−1, 1]²."""
    y = (torch.arange(height, device=device, dtype=dtype) + 0.5) / height * 2 - 1
    x = (torch.arange(width, device=device, dtype=dtype) + 0.5) / width * 2 - 1
    return torch.stack(torch.meshgrid(y, x, indexing="ij"), dim=-1)


def damp_offsets(offsets: Tensor, interest_points: Tensor, factor: float) -> Tensor:
    """Keep an offset whose y and x both agree in sign with its interest point's; multiply any
    other by `factor`. Shapes broadcast; the last dimension is (y, x). No gradient flows through
    the choice."""
    agrees = (offsets * interest_points > 0).all(dim=-1, keepdim=True)
    return torch.where(agrees, offsets, offsets * factor)


def sample_bilinear(maps: Tensor, points: Tensor) -> Tensor:
    """Ø of eq. 4: N×C×H×W maps at N×…×2 points (y, x) in [−1, 1] → N×C×…; zero outside."""
    return F.grid_sample(
        maps, points.flip(-1), mode="bilinear", padding_mode="zeros", align_corners=True
    )


class OffsetNet(nn.Module):
    """Net_o: depthwise conv → LayerNorm → GELU → linear to (y, x), bounded by tanh."""

    def __init__(self, dim: int, kernel: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(dim, dim, kernel, padding=kernel // 2, groups=dim)
        self.norm = nn.LayerNorm(dim)
        self.project = nn.Linear(dim, 2, bias=False)

    def forward(self, queries: Tensor) -> Tensor:
        """N×H×W×C → N×H×W×2 offsets, at most two cells of the regular grid long."""
        height, width = queries.shape[1:3]
        x = self.depthwise(queries.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        x = self.project(F.gelu(self.norm(x)))
        return torch.tanh(x) * x.new_tensor([1 / height, 1 / width]) * OFFSET_RANGE


class DelegateAttention(nn.Module):
    """Attention from every position to H·W sampled points: X̃ = Ø[X; G · (Net_i(X) + Net_o(Q))].

    Heads are contiguous in the channels and split evenly over the groups; each group of channels
    has offsets of its own.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        groups: int,
        size: int,
        offset_kernel: int,
        *,
        gate: bool,
        offsets: bool,
        point_pooling: str,
        offset_damping: float,
    ) -> None:
        super().__init__()
        self.heads, self.groups = heads, groups
        self.point_pooling, self.offset_damping = point_pooling, offset_damping
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.output = nn.Linear(dim, dim)
        self.interest_net = nn.Linear(dim, 2)  # Net_i
        self.gate_net = nn.Linear(dim, 1) if gate else None  # Net_g
        self.offset_net = OffsetNet(dim // groups, offset_kernel) if offsets else None
        self.position_bias_table = nn.Parameter(torch.empty(heads, 2 * size - 1, 2 * size - 1))
        nn.init.trunc_normal_(self.position_bias_table, std=0.01)

    def forward(self, x: Tensor, trace: list[DelegateTrace] | None = None) -> Tensor:
        """B×H×W×C → B×H×W×C; appends to `trace` what it saw, where one is given."""
        B, H, W, C = x.shape
        G, h, N = self.groups, self.heads, H * W
        q = self.query(x)
        interest, gate = self._interest_points(x), self._gate(x)  # 1 or B × H×W×(2 | 1)
        offsets, points = self._points(q, interest, gate)  # B×G×H×W×2

        maps = x.view(B, H, W, G, C // G).permute(0, 3, 4, 1, 2).reshape(B * G, C // G, H, W)
        sampled = sample_bilinear(maps, points.reshape(B * G, 1, N, 2))  # (B·G)×(C/G)×1×N
        sampled = sampled.view(B, C, N).transpose(1, 2)  # B×N×C
        q, k, v = (
            t.view(B, N, h, C // h).transpose(1, 2)  # B×h×N×(C/h)
            for t in (q, self.key(sampled), self.value(sampled))
        )
        bias = self._position_bias(points)
        if trace is None:
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        else:
            scale = (C // h) ** -0.5
            attention = (q @ k.transpose(-2, -1) * scale + bias).softmax(dim=-1)  # B×h×N×N
            out = attention @ v
            trace.append(self._trace(interest, offsets, gate, points, attention))
        return self.output(out.transpose(1, 2).reshape(B, H, W, C))

    def _interest_points(self, x: Tensor) -> Tensor:
        """Net_i: B×H×W×2 in (−1, 1), or 1×H×W×2 where the batch shares one set."""
        return torch.tanh(self._pool(self.interest_net(x)))

    def _gate(self, x: Tensor) -> Tensor | None:
        """Net_g: B×H×W×1, or 1×H×W×1 where the batch shares one; 0 or 1 (eq. 3)."""
        if self.gate_net is None:
            return None
        return torch.sigmoid(-GATE_SHARPNESS * self._pool(self.gate_net(x)))

    def _pool(self, maps: Tensor) -> Tensor:
        return maps.mean(dim=0, keepdim=True) if self.point_pooling == "batch" else maps

    def _points(
        self, q: Tensor, interest: Tensor, gate: Tensor | None
    ) -> tuple[Tensor | None, Tensor]:
        """Damped offsets (None without Net_o) and points, both B×G×H×W×2."""
        B, H, W, C = q.shape
        G = self.groups
        interest = interest.unsqueeze(1)  # (1 | B)×1×H×W×2
        if self.offset_net is None:
            offsets, points = None, interest.expand(B, G, H, W, 2)
        else:
            per_group = q.view(B, H, W, G, C // G).permute(0, 3, 1, 2, 4).reshape(-1, H, W, C // G)
            offsets = self.offset_net(per_group).view(B, G, H, W, 2)
            offsets = damp_offsets(offsets, interest, self.offset_damping)
            points = offsets + interest
        return offsets, points if gate is None else points * gate.unsqueeze(1)

    def _position_bias(self, points: Tensor) -> Tensor:
        """B×h×HW×HW: the table read at half the way from each point to each query position."""
        B, G, H, W, _ = points.shape
        grid = regular_grid(H, W, points.device, points.dtype).view(1, H * W, 1, 2)
        displacement = (grid - points.reshape(B * G, 1, H * W, 2)) * 0.5  # (B·G)×HW×HW×2
        h, rows, columns = self.position_bias_table.shape
        table = self.position_bias_table.view(1, G, h // G, rows, columns).expand(B, -1, -1, -1, -1)
        table = table.reshape(B * G, h // G, rows, columns)
        return sample_bilinear(table, displacement).view(B, h, H * W, H * W)

    def _trace(
        self,
        interest: Tensor,
        offsets: Tensor | None,
        gate: Tensor | None,
        points: Tensor,
        attention: Tensor,
    ) -> DelegateTrace:
        gate = None if gate is None else gate.squeeze(-1)
        if self.point_pooling == "batch":
            interest, gate = interest[0], None if gate is None else gate[0]
        return DelegateTrace(interest, offsets, gate, points, attention)
