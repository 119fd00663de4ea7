"""The released code's order of operations, written once and small: the baseline of the benchmarks.

Channel-first maps that are rearranged at every norm, MLP and window; 1×1 convolutions; einsum
attention; every bias and grid materialised; offsets copied to the host and back. Parameters bear
the released names, so `to_released_state_dict(model, tied=True)` loads strictly. For measuring
only: the project's network is `models/`.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from models import ModelConfig
from models.delegate_attention import GATE_SHARPNESS, OFFSET_RANGE
from models.layers import OFFSET_KERNELS, drop_path_rates
from models.window_attention import relative_position_index, shift_mask


class ChannelFirstNorm(nn.Module):
    """LayerNorm over the channels of B×C×H×W maps."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """B×C×H×W → B×C×H×W."""
        return self.norm(x.permute(0, 2, 3, 1).contiguous()).permute(0, 3, 1, 2).contiguous()


class ChannelFirstMlp(nn.Module):
    """Maps to tokens, two linear layers with GELU, tokens to maps."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.chunk = nn.Sequential()
        self.chunk.add_module("linear1", nn.Linear(dim, 4 * dim))
        self.chunk.add_module("act", nn.GELU())
        self.chunk.add_module("linear2", nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        """B×C×H×W → B×C×H×W."""
        B, C, H, W = x.shape
        x = self.chunk(x.flatten(2).permute(0, 2, 1).contiguous())
        return x.permute(0, 2, 1).reshape(B, C, H, W).contiguous()


class PlainWindowAttention(nn.Module):
    """Swin's window attention on channel-first maps, softmax written out."""

    def __init__(self, dim: int, heads: int, window: int, size: int, shift: int) -> None:
        super().__init__()
        self.heads, self.window, self.shift = heads, window, shift
        table = torch.zeros((2 * window - 1) ** 2, heads)
        self.relative_position_bias_table = nn.Parameter(table)
        self.register_buffer("relative_position_index", relative_position_index(window))
        if shift:
            self.register_buffer("attn_mask", shift_mask(size, window, shift))
        self.proj_qkv = nn.Linear(dim, 3 * dim)
        self.proj_out = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """B×C×H×W → B×C×H×W."""
        B, C, H, W = x.shape
        w, h, s = self.window, self.heads, self.shift
        if s:
            x = torch.roll(x, (-s, -s), dims=(2, 3))
        x = x.reshape(B, C, H // w, w, W // w, w).permute(0, 2, 4, 3, 5, 1)
        x = x.reshape(-1, w * w, C)  # (B·n)×N×C
        q, k, v = self.proj_qkv(x).chunk(3, dim=2)
        q, k, v = (t.reshape(-1, w * w, h, C // h).permute(0, 2, 1, 3) for t in (q, k, v))
        attention = torch.einsum("bhmc,bhnc->bhmn", q * (C // h) ** -0.5, k)
        bias = self.relative_position_bias_table[self.relative_position_index.flatten()]
        attention = attention + bias.view(w * w, w * w, h).permute(2, 0, 1).contiguous()[None]
        if s:
            n = len(self.attn_mask)
            attention = attention.view(B, n, h, w * w, w * w) + self.attn_mask[None, :, None]
            attention = attention.view(-1, h, w * w, w * w)
        x = torch.einsum("bhmn,bhnc->bhmc", attention.softmax(dim=3), v)
        x = self.proj_out(x.permute(0, 2, 1, 3).reshape(-1, w * w, C))
        x = x.reshape(B, H // w, W // w, w, w, C).permute(0, 5, 1, 3, 2, 4).reshape(B, C, H, W)
        return torch.roll(x, (s, s), dims=(2, 3)) if s else x


class PlainDelegateAttention(nn.Module):
    """Delegate attention of the released code, pooled over the batch."""

    def __init__(
        self, dim: int, heads: int, groups: int, size: int, kernel: int, gate: bool
    ) -> None:
        super().__init__()
        self.heads, self.groups = heads, groups
        group_dim = dim // groups
        self.conv_offset = nn.Sequential(
            nn.Conv2d(group_dim, group_dim, kernel, 1, kernel // 2, groups=group_dim),
            ChannelFirstNorm(group_dim),
            nn.GELU(),
            nn.Conv2d(group_dim, 2, 1, bias=False),
        )
        self.proj_q, self.proj_k, self.proj_v, self.proj_out = (
            nn.Conv2d(dim, dim, 1) for _ in range(4)
        )
        self.ref_point14 = nn.Conv2d(dim, 2, 1)
        self.ref_gate = nn.Conv2d(dim, 1, 1) if gate else None
        self.rpe_table = nn.Parameter(torch.zeros(heads, 2 * size - 1, 2 * size - 1))

    def forward(self, x: Tensor) -> Tensor:
        """B×C×H×W → B×C×H×W."""
        B, C, H, W = x.shape
        G, h, N = self.groups, self.heads, H * W
        q = self.proj_q(x)
        offset = self.conv_offset(q.reshape(B, G, C // G, H, W).flatten(0, 1))
        limit = torch.tensor([1 / H, 1 / W], device=x.device).view(1, 2, 1, 1)
        offset = (offset.tanh() * limit * OFFSET_RANGE).permute(0, 2, 3, 1)  # (B·G)×H×W×2
        interest = self.ref_point14(x).mean(dim=0).tanh().permute(1, 2, 0)[None]  # 1×H×W×2
        points = self._damp(offset, interest) + interest
        if self.ref_gate is not None:
            gate = torch.sigmoid(-GATE_SHARPNESS * self.ref_gate(x).mean(dim=0))
            points = points * gate.permute(1, 2, 0)[None]
        sampled = F.grid_sample(
            x.reshape(B * G, C // G, H, W), points[..., (1, 0)], align_corners=True
        ).reshape(B, C, 1, N)
        q = q.reshape(B * h, C // h, N)
        k = self.proj_k(sampled).reshape(B * h, C // h, N)
        v = self.proj_v(sampled).reshape(B * h, C // h, N)
        attention = torch.einsum("bcm,bcn->bmn", q, k) * (C // h) ** -0.5
        attention = attention + self._bias(points, B, H, W)
        out = torch.einsum("bmn,bcn->bcm", attention.softmax(dim=2), v)
        return self.proj_out(out.reshape(B, C, H, W))

    @staticmethod
    def _damp(offset: Tensor, interest: Tensor) -> Tensor:
        """The damping factor is worked out on the host."""
        agrees = (offset.detach().cpu() * interest.detach().cpu() > 0).all(dim=-1, keepdim=True)
        return offset * torch.where(agrees, 1.0, 0.25).to(offset.device)

    def _bias(self, points: Tensor, B: int, H: int, W: int) -> Tensor:
        """(B·h)×HW×HW."""
        G, h, N = self.groups, self.heads, H * W
        y, x = (
            torch.linspace(0.5, H - 0.5, H) / H * 2 - 1,
            torch.linspace(0.5, W - 0.5, W) / W * 2 - 1,
        )
        grid = torch.stack(torch.meshgrid(y, x, indexing="ij"), dim=-1).to(points.device)
        grid = grid[None].expand(B * G, -1, -1, -1).reshape(B * G, N, 1, 2)
        displacement = (grid - points.reshape(B * G, 1, N, 2)) * 0.5
        table = self.rpe_table[None].expand(B, -1, -1, -1).reshape(B * G, h // G, 2 * H - 1, -1)
        bias = F.grid_sample(table, displacement[..., (1, 0)], align_corners=True)
        return bias.reshape(B * h, N, N)


class PlainStage(nn.Module):
    """Norm, attention, norm, MLP, each with a residual; kinds alternate as in the paper."""

    def __init__(self, config: ModelConfig, stage: int, rates: list[float]) -> None:
        super().__init__()
        net = config.architecture
        dim, heads = net.dims[stage], net.heads[stage]
        size = net.map_sizes(config.image_size)[stage]
        self.layer_norms = nn.ModuleList(ChannelFirstNorm(dim) for _ in range(2 * len(rates)))
        self.mlps = nn.ModuleList(ChannelFirstMlp(dim) for _ in rates)
        self.attns = nn.ModuleList()
        for block in range(len(rates)):
            if block % 2 and stage >= 2:
                kernel, groups = OFFSET_KERNELS[stage + 1], net.groups[stage - 2]
                attention = PlainDelegateAttention(dim, heads, groups, size, kernel, config.gate)
            else:
                shift = (net.window + 1) // 2 if block % 2 else 0
                attention = PlainWindowAttention(dim, heads, net.window, size, shift)
            self.attns.append(attention)
        self.drop_path = nn.ModuleList(StochasticDepth(rate, "row") for rate in rates)

    def forward(self, x: Tensor) -> Tensor:
        """B×C×H×W → B×C×H×W."""
        for block, attention in enumerate(self.attns):
            drop_path = self.drop_path[block]
            x = drop_path(attention(self.layer_norms[2 * block](x))) + x
            x = drop_path(self.mlps[block](self.layer_norms[2 * block + 1](x))) + x
        return x


class ColorSpaceLayer(nn.Module):
    """Grouped 1×1 convolutions over the color points, as released."""

    def __init__(self, points: int, spaces: int) -> None:
        super().__init__()
        count = points * spaces
        self.bin_centers_conv = nn.Conv1d(points, count, 1, groups=points)
        self.bin_widths_conv = nn.Conv1d(count, count, 1, groups=count)
        self.centers = nn.Parameter(torch.zeros(count))
        self.widths = self.bin_widths_conv.weight  # the tied second name

    def forward(self, points: Tensor) -> Tensor:
        """B×P → B×(P·κ)."""
        distance = self.bin_centers_conv(points[:, :, None]).abs()
        return F.relu(self.bin_widths_conv(distance)).flatten(1)


class PlainDelegateTransformer(nn.Module):
    """The released network; build it with the configuration of one of ours."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dims = config.architecture.dims
        self.patch_proj = nn.Sequential(nn.Conv2d(3, dims[0], 4, 4), ChannelFirstNorm(dims[0]))
        self.stages = nn.ModuleList(
            PlainStage(config, stage, rates) for stage, rates in enumerate(drop_path_rates(config))
        )
        self.down_projs = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 2, 2, bias=False), ChannelFirstNorm(b))
            for a, b in itertools.pairwise(dims)
        )
        self.cls_norm = ChannelFirstNorm(dims[3])
        self.cls_head = nn.Linear(dims[3], 1)
        self.hst_head = nn.Linear(dims[3], config.num_color_points)
        self.hist_feature = ColorSpaceLayer(config.num_color_points, config.color_spaces)
        weights = config.num_color_points * config.color_spaces
        self.class_head = nn.Linear(weights, 1)
        self.class_head2 = nn.Linear(weights, 1) if len(config.targets) == 2 else None

    def forward(self, images: Tensor) -> Tensor:
        """B×3×S×S → B×T."""
        x = self.patch_proj(images)
        for stage, blocks in enumerate(self.stages):
            x = blocks(x)
            if stage < 3:
                x = self.down_projs[stage](x)
        pooled = F.adaptive_avg_pool2d(self.cls_norm(x), 1).flatten(1)
        weights = self.hist_feature(self.hst_head(pooled))
        heads = [self.class_head] + ([self.class_head2] if self.class_head2 else [])
        return torch.sigmoid(torch.cat([head(weights) for head in heads], dim=1))
