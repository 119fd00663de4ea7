"""What transformer and CNN variants share: pre-norm blocks and stages of channels-last maps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from models.color_spaces import ColorHead, DistributionHead, PlainHead
from models.delegate_attention import DelegateAttention, DelegateTrace
from models.options import AVA_BINS, ModelConfig
from models.window_attention import WindowAttention

OFFSET_KERNELS = {3: 5, 4: 3}  # of Net_o, by stage


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


class Mlp(nn.Sequential):
    """Linear ×4 → GELU → linear."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.expand = nn.Linear(dim, 4 * dim)
        self.activation = nn.GELU()
        self.project = nn.Linear(4 * dim, dim)


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
        self.drop_path = StochasticDepth(drop_path, "row")

    def forward(self, x: Tensor, trace: list[DelegateTrace] | None = None) -> Tensor:
        """B×H×W×C → B×H×W×C."""
        x_norm = self.attention_norm(x)
        if isinstance(self.attention, DelegateAttention):
            attended = self.attention(x_norm, trace)
        else:
            attended = self.attention(x_norm)
        x = x + self.drop_path(attended)
        return x + self.drop_path(self.mlp(self.mlp_norm(x)))


class Stage(nn.Module):
    """Layers in pairs: window and shifted window (stages 1, 2), window and delegate (3, 4)."""

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
    """The attention of layer `block` of `stage`: every second layer of stages 3, 4 delegates."""
    net = config.architecture
    dim, heads = net.dims[stage - 1], net.heads[stage - 1]
    size = net.map_sizes(config.image_size)[stage - 1]
    if block % 2 == 0:
        return WindowAttention(dim, heads, size, net.window)
    if stage <= 2:
        round_up = config.window_shift == "ceil"
        return WindowAttention(dim, heads, size, net.window, (net.window + round_up) // 2)
    return DelegateAttention(
        dim,
        heads,
        net.groups[stage - 3],
        size,
        OFFSET_KERNELS[stage],
        gate=config.gate,
        offsets=config.offsets,
        point_pooling=config.point_pooling,
        offset_damping=config.offset_damping,
    )


def build_head(config: ModelConfig) -> ColorHead | PlainHead | DistributionHead:
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
