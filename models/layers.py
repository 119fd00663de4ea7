"""What transformer and CNN variants share: pre-norm blocks and stages of channels-last maps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from models.color_spaces import ColorHead, DistributionHead, Head, PlainHead
from models.delegate_attention import DelegateAttention, DelegateTrace, PointOptions
from models.linear import Linear
from models.options import AVA_BINS, Architecture, ModelConfig
from models.training_cost import add_branch
from models.window_attention import WindowAttention

# By stage. DAT's kernels of Net_o, and strides that give stages 1 and 2 as many points as stage 3
# (14×14 at 224 pixels). A point for each of stage 1's 56×56 tokens would make 9.8 million pairs of
# query and point in each head, sixteen times as many.
OFFSET_KERNELS = {1: 9, 2: 7, 3: 5, 4: 3}
POINT_STRIDES = {1: 4, 2: 2, 3: 1, 4: 1}


@dataclass(frozen=True)
class LayerExplanation(DelegateTrace):
    """A delegate layer's points and attention, and where in the network it is."""

    stage: int  # 1–4
    block: int  # layer within the stage, from 0


class Downsample(nn.Module):
    """k×k convolution of stride k, then LayerNorm."""

    def __init__(self, dim_in: int, dim_out: int, stride: int, bias: bool) -> None:
        super().__init__()
        self.projection = nn.Conv2d(dim_in, dim_out, stride, stride, bias=bias)
        self.norm = nn.LayerNorm(dim_out)

    def forward(self, maps: Tensor) -> Tensor:
        """B×C×H×W → B×(H/k)×(W/k)×C'."""
        return self.norm(self.projection(maps).permute(0, 2, 3, 1))


class Mlp(nn.Module):
    """Linear ×4 → GELU → linear."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.expand = Linear(dim, 4 * dim)
        self.project = Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """…×C → …×C."""
        return self.project(self.expand(x), gelu=True)


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); both with stochastic depth."""

    def __init__(
        self, attention: WindowAttention | DelegateAttention, dim: int, drop_path: float
    ) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = attention
        self.mlp_norm = nn.LayerNorm(dim)
        self.mlp = Mlp(dim)
        self.drop_path = drop_path

    def forward(self, x: Tensor, trace: list[DelegateTrace] | None = None) -> Tensor:
        """B×H×W×C → B×H×W×C."""
        drop_rate = self.drop_path if self.training else 0.0
        x = add_branch(x, lambda part: self._attend(part, x, trace), drop_rate)
        return add_branch(x, lambda part: self.mlp(self.mlp_norm(part)), drop_rate)

    def _attend(self, x: Tensor, whole: Tensor, trace: list[DelegateTrace] | None) -> Tensor:
        """Attention of the images x, a part of the batch `whole`."""
        norm = self.attention_norm
        if isinstance(self.attention, WindowAttention):
            return self.attention(norm(x))
        pools_over_whole = whole is not x and self.attention.point_pooling != "image"
        return self.attention(norm(x), trace, norm(whole) if pools_over_whole else None)


class Stage(nn.Module):
    """Layers in pairs: window attention, and the kind that the stage's letter in `stages` says."""

    def __init__(self, config: ModelConfig, number: int, drop_paths: list[float]) -> None:
        super().__init__()
        self.number = number
        dim = config.architecture.dims[number - 1]
        self.blocks = nn.ModuleList(
            Block(_attention(config, number, block), dim, rate)
            for block, rate in enumerate(drop_paths)
        )

    def forward(self, x: Tensor, layers: list[LayerExplanation] | None = None) -> Tensor:
        """B×H×W×C → B×H×W×C; appends each delegate layer's explanation to `layers`."""
        for index, block in enumerate(self.blocks):
            trace: list[DelegateTrace] | None = None if layers is None else []
            x = block(x, trace)
            if layers is not None:
                layers += (
                    LayerExplanation(**vars(t), stage=self.number, block=index) for t in trace
                )
        return x


def _attention(config: ModelConfig, stage: int, block: int) -> WindowAttention | DelegateAttention:
    """The attention of layer `block` of `stage`: every second layer is of the stage's kind.

    Where one window covers the map it is not shifted, as in Swin: there is nothing beyond it.
    """
    net = config.architecture
    dim, heads = net.dims[stage - 1], net.heads[stage - 1]
    size = net.map_sizes(config.image_size)[stage - 1]
    kind = config.stages[stage - 1]
    if block % 2 == 0 or (kind == "S" and size == net.window):
        return WindowAttention(dim, heads, size, net.window)
    if kind == "S":
        round_up = config.window_shift == "ceil"
        return WindowAttention(dim, heads, size, net.window, (net.window + round_up) // 2)
    options = PointOptions(
        groups=offset_groups(net, stage),
        stride=POINT_STRIDES[stage],
        offset_kernel=OFFSET_KERNELS[stage],
        interest=kind == "G",
        interest_kernel=config.interest_kernel,
        gate=config.gate,
        gate_gradient=config.gate_gradient,
        offsets=config.offsets,
        pooling=config.point_pooling,
        damping=config.offset_damping,
    )
    return DelegateAttention(dim, heads, size, options)


def offset_groups(net: Architecture, stage: int) -> int:
    """Offset groups of a stage. DAT has none in stages 1 and 2: there, groups of as many channels
    as in stage 3 (base: 128, so 1 and 2 groups), at least one."""
    if stage >= 3:
        return net.groups[stage - 3]
    return max(1, net.dims[stage - 1] * net.groups[0] // net.dims[2])


def build_head(config: ModelConfig) -> Head:
    """The head that the variant and the number of color spaces call for."""
    dim = config.architecture.dims[-1]
    if config.variant == "ava":
        return DistributionHead(dim, len(AVA_BINS))
    if config.color_spaces == 0:
        return PlainHead(dim, len(config.targets))
    return ColorHead(
        dim,
        len(config.targets),
        config.num_color_points,
        config.color_spaces,
        slope=config.color_space_slope,
        unit_range=config.color_point_range == "unit",
    )


def drop_path_rates(config: ModelConfig) -> Iterator[list[float]]:
    """Per stage, the layers' rates: rising linearly from 0 to `drop_path` over all layers."""
    depths = config.architecture.depths
    last = max(sum(depths) - 1, 1)
    done = 0
    for depth in depths:
        yield [config.drop_path * (done + layer) / last for layer in range(depth)]
        done += depth


def init_weights(model: nn.Module, config: ModelConfig) -> None:
    """Give `model`, whose layers have torch's starting weights, those that `config` asks for."""
    if config.weight_init == "trunc_normal":
        model.apply(_truncated_normal_init)
    if config.head_init == "linear" and isinstance(model.head, ColorHead):
        model.head.init_linear()


def _truncated_normal_init(module: nn.Module) -> None:
    """Swin's starting weights for linear layers: truncated normal of std 0.02, biases zero."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
