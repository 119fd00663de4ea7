"""Delegate attention: few sampled points stand for the whole map (paper, equations 2 to 4)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from errors import UserError
from models.attention import attention
from models.depthwise import GroupedDepthwise
from models.fused_attention import delegate_attention
from models.gelu import gelu
from models.linear import Linear
from models.native_code import runs_native
from models.precision import at_least_float32, full_precision
from models.sampling import sample_at_xy, sample_groups
from models.training_cost import recomputed

OFFSET_RANGE = 2.0  # in cells of the regular grid
GATE_SHARPNESS = 99999.0  # α of eq. 3
MOMENTUM = 0.1  # of the running averages: the share of the newest batch, as in BatchNorm
MOST_PAIRS = 2**22  # of head, query and point of an image at a time; base has 0.6 million at 224²


@dataclass(frozen=True)
class PointOptions:
    """Which h×w points a layer of H×W tokens reads.

    The grid of points is the map itself in units of `stride`: (H/stride)×(W/stride) cells, each
    the mean of its tokens for Net_i and Net_g. These two see k×k cells at a time, neither padded
    nor strided, k being `interest_kernel` or, on a smaller map, its side: h = H/stride − k + 1.

    | k            | 1   | 2   | 3   | 4   | 5   | 6  | 7  | 8  | 9  | 10 |
    |--------------|-----|-----|-----|-----|-----|----|----|----|----|----|
    | 14×14: points| 196 | 169 | 144 | 121 | 100 | 81 | 64 | 49 | 36 | 25 |
    | 7×7: points  | 49  | 36  | 25  | 16  | 9   | 4  | 1  | 1  | 1  | 1  |

    Net_o has one offset a cell; a point's is the mean over the k×k cells that its interest point
    was made from. Without Net_i (`interest=False`) the points are those of a regular grid, moved
    by offsets alone: deformable attention (DAT, CVPR 2022). There is no gate and no damping then.
    """

    groups: int  # channels in groups, each with offsets of its own
    stride: int
    offset_kernel: int  # of Net_o, in tokens
    interest: bool
    interest_kernel: int
    gate: bool
    gate_gradient: str  # "none" or "straight_through"
    offsets: bool
    pooling: str  # "batch", "image" or "running", see `DelegateAttention.set_pooling`
    damping: float  # factor on offsets that point away from their interest point


@dataclass(frozen=True)
class DelegateTrace:
    """What one layer saw with its h×w points. Coordinates are (y, x) in [−1, 1], −1 and 1 being the
    centres of the first and last row or column of the map.

    One set of interest points and gates serves all images, but with `point_pooling="image"`.
    """

    map_size: tuple[int, int]  # H, W: the queries
    interest_points: Tensor  # h×w×2, or B×h×w×2 ("image"); the regular grid in a layer without
    offsets: Tensor | None  # B×G×h×w×2, after damping
    gate: Tensor | None  # h×w or B×h×w, 0 (closed: the point moves to the centre) or 1
    points: Tensor  # B×G×h×w×2: (offsets + interest points) · gate
    attention: Tensor  # B×heads×HW×hw: query position, point


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


def hard_gate(logits: Tensor, gradient: str) -> Tensor:
    """Eq. 3: sigmoid(−α · logits), which is 1 (open) below zero and 0 above, any shape.

    So steep a sigmoid passes no gradient ("none": its own, 0 nearly everywhere). With
    "straight_through" the value is the same and the gradient that of sigmoid(−logits): the
    straight-through estimator of Bengio et al. 2013 (arXiv:1308.3432), in its sigmoid form.
    """
    hard = torch.sigmoid(-GATE_SHARPNESS * logits)
    if gradient == "none":
        return hard
    soft = torch.sigmoid(-logits)
    return hard.detach() + (soft - soft.detach())  # the bracket is 0 exactly


class OffsetNet(nn.Module):
    """Net_o: depthwise conv → LayerNorm → GELU → linear to (y, x), bounded by tanh."""

    def __init__(self, dim: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.depthwise = GroupedDepthwise(dim, kernel, stride)
        self.norm = nn.LayerNorm(dim)
        self.project = nn.Linear(dim, 2, bias=False)

    def forward(self, queries: Tensor) -> Tensor:
        """B×S×S×G×C → B×s×s×G×2 offsets, s = S/stride, at most two cells of that grid long."""
        x = self.project(gelu(self.norm(self.depthwise(queries))))
        return torch.tanh(at_least_float32(x)) * (OFFSET_RANGE / x.shape[1])


class CellConv(nn.Conv2d):
    """A convolution of channels-last maps that uses no padding: B×H×W×C → B×h×w×C'."""

    def forward(self, x: Tensor) -> Tensor:
        """h = H − k + 1."""
        return super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def _cell_net(dim: int, outputs: int, kernel: int) -> nn.Linear | CellConv:
    """Net_i or Net_g; the published kernel of 1 is a linear map."""
    return nn.Linear(dim, outputs) if kernel == 1 else CellConv(dim, outputs, kernel)


class DelegateAttention(nn.Module):
    """Attention from every position to h·w sampled points: X̃ = Ø[X; G · (Net_i(X) + Net_o(Q))].

    Heads are contiguous in the channels and split evenly over the groups; each group of channels
    has offsets of its own. `options` say which points; points, sampling and position bias are
    computed in float32 under autocast, too.
    """

    def __init__(self, dim: int, heads: int, size: int, options: PointOptions) -> None:
        super().__init__()
        self.heads, self.options, self.point_pooling = heads, options, options.pooling
        cells = size // options.stride
        self.kernel = min(options.interest_kernel, cells) if options.interest else 1
        self.query = Linear(dim, dim)
        self.key = Linear(dim, dim)
        self.value = Linear(dim, dim)
        self.output = Linear(dim, dim)
        has_gate = options.interest and options.gate
        self.interest_net = _cell_net(dim, 2, self.kernel) if options.interest else None  # Net_i
        self.gate_net = _cell_net(dim, 1, self.kernel) if has_gate else None  # Net_g
        self.offset_net = (
            OffsetNet(dim // options.groups, options.offset_kernel, options.stride)
            if options.offsets
            else None
        )
        self.position_bias_table = nn.Parameter(torch.empty(heads, 2 * size - 1, 2 * size - 1))
        nn.init.trunc_normal_(self.position_bias_table, std=0.01)
        # What Net_i and Net_g gave over the last batches: part of the weights in this mode only.
        running, side = options.pooling == "running", cells - self.kernel + 1
        for name, net, outputs in (("interest", self.interest_net, 2), ("gate", self.gate_net, 1)):
            average = torch.zeros(1, side, side, outputs) if running and net is not None else None
            self.register_buffer(f"running_{name}", average)

    def set_pooling(self, pooling: str) -> None:
        """Pool what Net_i and Net_g give in another way from now on: "image" not at all, "batch"
        as the mean over the batch, "running" as that in training and as its running average,
        kept with the weights, in evaluation.

        As with BatchNorm, each of several processes averages over its own images, and
        DistributedDataParallel gives all of them rank 0's running averages before every step.
        Raises `UserError` for "running" where no running averages were kept.
        """
        has_points = self.interest_net is not None
        if pooling == "running" and has_points and self.running_interest is None:
            raise UserError("point_pooling=running: this network was trained without it")
        self.point_pooling = pooling

    def forward(
        self,
        x: Tensor,
        trace: list[DelegateTrace] | None = None,
        whole: Tensor | None = None,
    ) -> Tensor:
        """B×H×W×C → B×H×W×C; appends to `trace` what it saw, where one is given.

        whole: all images of the batch, where x is a part of it and pooling is over all.
        """
        B, H, W, C = x.shape
        h = self.heads
        q = self.query(x)
        offsets = self._offsets(q)  # B×G×h×w×2
        with full_precision(x.device):
            # (1 | B)×h×w×(2 | 1)
            interest, gate = self._interest_and_gate(x if whole is None else whole)
            offsets, points = self._points(offsets, interest, gate, B)  # B×G×h×w×2
            places = points.flatten(2, 3)  # B×G×N×2
            sampled = sample_groups(x, places).to(q.dtype)  # B×N×C
        k, v = self.key(sampled), self.value(sampled)
        grid = regular_grid(H, W, points.device, points.dtype).flatten(0, 1)  # HW×2
        table = self.position_bias_table
        if trace is None and runs_native(q, points, table):
            out = delegate_attention(q.flatten(1, 2), k, v, table, places, grid)
            return self.output(out.view(B, H, W, C))
        q, k, v = (
            t.view(B, -1, h, C // h).transpose(1, 2)  # B×h×(HW | N)×(C/h)
            for t in (q, k, v)
        )
        if trace is None:
            return self._merge(self._attend_in_parts(q, k, v, points, grid), (H, W))
        scale = (C // h) ** -0.5
        bias = self._position_bias(points, grid).to(q.dtype)  # B×h×HW×N
        shares = (q @ k.transpose(-2, -1) * scale + bias).softmax(dim=-1)  # B×h×HW×N
        if self.point_pooling != "image" or self.interest_net is None:
            interest, gate = interest[0], None if gate is None else gate[0]
        gate = None if gate is None else gate.squeeze(-1)
        trace.append(DelegateTrace((H, W), interest, offsets, gate, points, shares))
        return self._merge(shares @ v, (H, W))

    def _attend_in_parts(
        self, q: Tensor, k: Tensor, v: Tensor, points: Tensor, grid: Tensor
    ) -> Tensor:
        """`_attend`, on large maps a part of the queries after the other, so that memory grows with
        the pixels and not with their square: no part holds more than MOST_PAIRS an image."""
        rows = max(1, MOST_PAIRS // (self.heads * k.shape[2]))
        if rows >= len(grid):
            return recomputed(self._attend, q, k, v, points, grid)
        parts = zip(q.split(rows, dim=2), grid.split(rows), strict=True)
        done = [recomputed(self._attend, some, k, v, points, places) for some, places in parts]
        return torch.cat(done, dim=2)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, points: Tensor, grid: Tensor) -> Tensor:
        """B×h×Q×(C/h) queries at Q×2 places, B×h×N×(C/h) keys and values → B×h×Q×(C/h)."""
        with full_precision(q.device):
            bias = self._position_bias(points, grid).to(q.dtype)  # B×h×Q×N
        return attention(q, k, v, bias)

    def _merge(self, heads: Tensor, size: tuple[int, int]) -> Tensor:
        """B×h×HW×(C/h) → B×H×W×C."""
        return self.output(heads.transpose(1, 2).flatten(2).unflatten(1, size))

    def _interest_and_gate(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Net_i: B×h×w×2 in (−1, 1), and Net_g: B×h×w×1, 0 or 1 (eq. 3), None without one. The
        first dimension is 1 where all images share one set."""
        stride = self.options.stride
        if self.interest_net is None:
            side = x.shape[1] // stride
            dtype = torch.promote_types(x.dtype, torch.float32)
            return regular_grid(side, side, x.device, dtype)[None], None
        if stride > 1:
            x = F.avg_pool2d(x.permute(0, 3, 1, 2), stride).permute(0, 2, 3, 1)
        interest = torch.tanh(self._pooled(self.interest_net, x, self.running_interest))
        if self.gate_net is None:
            return interest, None
        logits = self._pooled(self.gate_net, x, self.running_gate)
        return interest, hard_gate(logits, self.options.gate_gradient)

    def _pooled(self, net: nn.Linear | CellConv, cells: Tensor, running: Tensor | None) -> Tensor:
        """What `net` makes of B×H×W×C cells, or of all batches of late: (B | 1)×h×w×outputs."""
        if self.point_pooling == "running" and not self.training:
            return at_least_float32(running)
        logits = at_least_float32(net(cells.to(net.weight.dtype)))
        if self.point_pooling == "image":
            return logits
        mean = logits.mean(dim=0, keepdim=True)
        if self.point_pooling == "running":
            with torch.no_grad():
                running.lerp_(mean.to(running.dtype), MOMENTUM)
        return mean

    def _offsets(self, q: Tensor) -> Tensor | None:
        """Net_o for each group of B×H×W×C queries: B×G×h×w×2, None without it."""
        if self.offset_net is None:
            return None
        offsets = self.offset_net(q.unflatten(3, (self.options.groups, -1))).movedim(3, 1)
        if self.kernel > 1:  # B×G×(H/stride)×(W/stride)×2 → B×G×h×w×2
            maps = offsets.flatten(0, 1).permute(0, 3, 1, 2)
            means = F.avg_pool2d(maps, self.kernel, stride=1).permute(0, 2, 3, 1)
            offsets = means.unflatten(0, offsets.shape[:2])
        return offsets

    def _points(
        self, offsets: Tensor | None, interest: Tensor, gate: Tensor | None, batch: int
    ) -> tuple[Tensor | None, Tensor]:
        """Damped offsets (None without Net_o) and points, both B×G×h×w×2."""
        interest = interest.unsqueeze(1)  # (1 | B)×1×h×w×2
        if offsets is None:
            points = interest.expand(batch, self.options.groups, -1, -1, -1)
        else:
            if self.interest_net is not None:
                offsets = damp_offsets(offsets, interest, self.options.damping)
            points = offsets + interest
        return offsets, points if gate is None else points * gate.unsqueeze(1)

    def _position_bias(self, points: Tensor, grid: Tensor) -> Tensor:
        """B×h×Q×N: the table read at half the way from each point to each of Q×2 places."""
        B, G, N = *points.shape[:2], points.shape[2] * points.shape[3]
        # In (x, y), and all points of a query in a row: torch is faster with few long rows.
        half_points = 0.5 * points.flip(-1).reshape(B * G, 1, N * 2)
        half_way = 0.5 * grid.flip(-1).repeat(1, N) - half_points  # (B·G)×Q×(N·2)
        h, rows, columns = self.position_bias_table.shape
        table = at_least_float32(self.position_bias_table).view(1, G, h // G, rows, columns)
        table = table.expand(B, -1, -1, -1, -1).reshape(B * G, h // G, rows, columns)
        return sample_at_xy(table, half_way.view(B * G, len(grid), N, 2)).view(B, h, -1, N)
