"""Small networks and layers for the tests of attention."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models import build_model
from models.delegate_attention import DelegateAttention, PointOptions


def nano(**options: object) -> nn.Module:
    torch.manual_seed(0)
    return build_model("delegate_nano", **{"drop_path": 0.0, **options})


def photographs(batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, 128, 128, generator=torch.Generator().manual_seed(1))


def point_layer(size: int = 8, **options: object) -> DelegateAttention:
    """A layer of 12 channels in 4 heads with weights that move its points about."""
    torch.manual_seed(0)
    base = {"groups": 2, "stride": 1, "offset_kernel": 3, "interest": True, "interest_kernel": 1,
            "gate": True, "gate_gradient": "none", "offsets": True, "pooling": "image",
            "damping": 0.25}  # fmt: skip
    layer = DelegateAttention(12, 4, size, PointOptions(**{**base, **options}))
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return layer


def point_layers(model: nn.Module) -> list[DelegateAttention]:
    return [module for module in model.modules() if isinstance(module, DelegateAttention)]
