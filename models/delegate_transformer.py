"""The Delegate Transformer of "Thinking Image Color Aesthetics Assessment" (ICCV 2023)."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from models.color_spaces import Head
from models.hub import HubFolders
from models.layers import (
    Downsample,
    LayerExplanation,
    Stage,
    build_head,
    drop_path_rates,
    init_weights,
)
from models.options import ModelConfig
from models.scoring_api import Scoring


@dataclass(frozen=True)
class Explanation:
    """What the network saw in B images; P color points, κ color spaces, T targets.

    Each of `layers` is one delegate layer, with its `stage` (1–4) and `block` (layer within the
    stage, from 0); see `DelegateTrace` for its arrays.
    """

    scores: Tensor  # B×T in (0, 1); variant ava: B×10 shares
    pooled: Tensor  # B×C, after the last norm and the mean over positions
    color_points: Tensor | None  # B×P; None where the head has no color spaces
    color_space_weights: Tensor | None  # B×(P·κ), point-major
    layers: list[LayerExplanation]


class ColorAesthetics(Scoring, HubFolders, ABC):
    """What every network of the family does once its body has made the last feature map.

    Subclasses build the body and `head`. `extra` holds what was saved beside the configuration.
    """

    head: Head

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.extra: dict[str, Any] = {}

    def compile(self, **options: Any) -> None:
        """As in every Module, but what `torch.compile` gets is `forward_features`, which training
        and scoring both call. `options` are torch.compile's. Make copies of the network before: a
        copy would go on calling this one's."""
        forward_features = type(self).forward_features.__get__(self)
        self.forward_features = torch.compile(forward_features, **options)  # type: ignore[method-assign]

    @abstractmethod
    def forward_maps(self, images: Tensor, layers: list[LayerExplanation] | None) -> Tensor:
        """The body: B×3×S×S → B×H×W×C, normalised."""

    def forward_features(
        self, images: Tensor, layers: list[LayerExplanation] | None = None
    ) -> Tensor:
        """B×3×S×S ImageNet-normalised images → B×C pooled features.

        Each delegate layer's explanation is appended to `layers`, where a list is given.
        """
        size = self.config.image_size
        if images.ndim != 4 or images.shape[1:] != (3, size, size):
            raise ValueError(f"images must be B×3×{size}×{size}, not {tuple(images.shape)}")
        return self.forward_maps(images, layers).mean(dim=(1, 2))

    def forward(self, images: Tensor) -> Tensor:
        """B×3×S×S ImageNet-normalised images → scores B×T in (0, 1); variant ava: B×10 shares."""
        return self.head(self.forward_features(images))[0]

    def explain(self, images: Tensor) -> Explanation:
        """Scores, and what led to them; the same arithmetic with the attention written out."""
        layers: list[LayerExplanation] = []
        pooled = self.forward_features(images, layers)
        scores, color_points, weights = self.head(pooled)
        return Explanation(scores, pooled, color_points, weights, layers)


class DelegateTransformer(ColorAesthetics):
    """Four stages: window attention early, window and delegate attention in turn later."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        dims = config.architecture.dims
        self.patch_embed = Downsample(3, dims[0], 4, bias=True)
        self.stages = nn.ModuleList(
            Stage(config, number, rates)
            for number, rates in enumerate(drop_path_rates(config), start=1)
        )
        self.downsamples = nn.ModuleList(
            Downsample(dim_in, dim_out, 2, bias=False)
            for dim_in, dim_out in itertools.pairwise(dims)
        )
        self.norm = nn.LayerNorm(dims[-1])
        self.head = build_head(config)
        init_weights(self, config)
        if config.variant != "ava":
            self.unused = unused_parameters(config)

    def forward_maps(self, images: Tensor, layers: list[LayerExplanation] | None) -> Tensor:
        """B×3×S×S → B×(S/32)×(S/32)×C."""
        x = self.patch_embed(images)
        for index, stage in enumerate(self.stages):
            if index:
                x = self.downsamples[index - 1](x.permute(0, 3, 1, 2))
            x = stage(x, layers)
        return self.norm(x)


def unused_parameters(config: ModelConfig) -> nn.ParameterDict:
    """What released checkpoints hold and no forward pass reads: the ImageNet head, and a second
    copy of the color-space centres. Carried, frozen, so that a checkpoint comes back as it was."""
    values = {
        "cls_head_weight": torch.zeros(1, config.architecture.dims[-1]),
        "cls_head_bias": torch.zeros(1),
    }
    if config.color_spaces:
        centers = (torch.arange(config.color_spaces) + 0.5) / config.color_spaces
        values["centers"] = centers.repeat(config.num_color_points)
    return nn.ParameterDict(
        {name: nn.Parameter(value, requires_grad=False) for name, value in values.items()}
    )
