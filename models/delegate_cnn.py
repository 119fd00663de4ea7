"""A CNN backbone that feeds delegate stages 3 and 4, the color spaces and the score heads."""

from __future__ import annotations

from torch import Tensor, nn

from models.backbones import build_backbone
from models.delegate_transformer import ColorAesthetics
from models.layers import (
    Downsample,
    LayerExplanation,
    Stage,
    build_head,
    drop_path_rates,
    init_weights,
)
from models.options import ModelConfig


class DelegateCNN(ColorAesthetics):
    """The backbone's map of stride 16 (or 8, halved) enters stage 3; stage 4 takes stage 3's,
    halved, plus the backbone's map of stride 32 where it has one."""

    def __init__(self, config: ModelConfig, *, load_backbone: bool = True) -> None:
        super().__init__(config)
        dims = config.architecture.dims
        rates = list(drop_path_rates(config))
        self.stage3 = Stage(config, 3, rates[2])
        self.stage4 = Stage(config, 4, rates[3])
        self.downsample = Downsample(dims[2], dims[3], 2, bias=False)
        self.norm = nn.LayerNorm(dims[3])
        self.head = build_head(config)
        init_weights(self, config)
        backbone = build_backbone(config.backbone, config.backbone_weights, load=load_backbone)
        self.stride3 = 16 if 16 in backbone.channels else 8
        halving = 16 // self.stride3
        self.enter3 = Downsample(backbone.channels[self.stride3], dims[2], halving, bias=True)
        self.enter4 = (
            Downsample(backbone.channels[32], dims[3], 1, bias=True)
            if 32 in backbone.channels
            else None
        )
        self.backbone = backbone

    def train(self, mode: bool = True) -> DelegateCNN:
        """As in every Module; batch norms of a frozen backbone keep their running statistics."""
        super().train(mode)
        if self.config.backbone_norm == "frozen":
            for module in self.backbone.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def forward_maps(self, images: Tensor, layers: list[LayerExplanation] | None) -> Tensor:
        """B×3×S×S → B×(S/32)×(S/32)×C."""
        maps = self.backbone(images)
        x = self.stage3(self.enter3(maps[self.stride3]), layers)
        x = self.downsample(x.permute(0, 3, 1, 2))
        if self.enter4 is not None:
            x = x + self.enter4(maps[32])
        return self.norm(self.stage4(x, layers))
