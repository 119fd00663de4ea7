"""Networks by name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from models.delegate_cnn import DelegateCNN
from models.delegate_transformer import ColorAesthetics, DelegateTransformer
from models.depths import layer_depths
from models.options import ARCHITECTURES, ModelConfig, resolve
from models.weights import NEW_LAYERS


def list_models() -> list[str]:
    """Names that `build_model` takes."""
    return list(ARCHITECTURES)


def build_model(
    name: str,
    variant: str = "icaa17k",
    *,
    recipe: str = "released",
    targets: Iterable[str] | None = None,
    **options: Any,
) -> ColorAesthetics:
    """Build a network with fresh weights.

    `variant` is icaa17k (gate; targets MOS and color), spaq (no gate; Colorfulness) or ava (ten
    rating bins); `targets` replaces the variant's own. `recipe` sets every option in which the
    released code and ours differ; `options` (see `OPTIONS`) override it one by one. Raises
    `UserError` for unknown names and impossible values.
    """
    return build_from_config(resolve(name, variant, recipe, targets, options))


def build_from_config(config: ModelConfig, *, load_backbone: bool = True) -> ColorAesthetics:
    """The network of `config`; `load_backbone=False` where weights for a CNN's are to follow."""
    if config.name == "delegate_cnn":
        return DelegateCNN(config, load_backbone=load_backbone)
    return DelegateTransformer(config)


def parameter_groups(
    model: ColorAesthetics,
    *,
    lr: float,
    weight_decay: float,
    new_layer_lr_factor: float,
    layer_decay: float = 1.0,
) -> list[dict[str, Any]]:
    """Optimizer groups: learning rate `lr`, times the factor for the layers that pretrained weights
    do not bring (the head, Net_i and Net_g; all but the backbone of delegate_cnn), times
    `layer_decay` for each layer below the head (see `layer_depths`); no weight decay for biases,
    norms, position tables and color spaces."""
    is_cnn = isinstance(model, DelegateCNN)
    depths = layer_depths(model) if layer_decay != 1 else {}
    groups: dict[tuple[bool, bool, int], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decays = parameter.ndim > 1 and not name.endswith(("table", ".centers", ".slopes"))
            brought = "backbone." in name if is_cnn else not any(p in name for p in NEW_LAYERS)
            key = (not brought, decays, depths.get(name, 0))
            groups.setdefault(key, []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": lr * (new_layer_lr_factor if new else 1.0) * layer_decay**depth,
            "weight_decay": weight_decay if decays else 0.0,
        }
        for (new, decays, depth), parameters in groups.items()
    ]
