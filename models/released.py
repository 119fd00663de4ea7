"""The released checkpoints' names and ours: the one place that knows both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from errors import UserError
from models.delegate_attention import DelegateAttention
from models.delegate_transformer import ColorAesthetics, DelegateTransformer
from models.window_attention import WindowAttention

# ours, released: modules of layer b of stage s; its two norms are numbered n = 2b and m = 2b + 1.
LAYER_MODULES = [
    ("attention_norm", "layer_norms.{n}.norm"),
    ("mlp_norm", "layer_norms.{m}.norm"),
    ("mlp.expand", "mlps.{b}.chunk.linear1"),
    ("mlp.project", "mlps.{b}.chunk.linear2"),
    ("attention.qkv", "attns.{b}.proj_qkv"),
    ("attention.query", "attns.{b}.proj_q"),
    ("attention.key", "attns.{b}.proj_k"),
    ("attention.value", "attns.{b}.proj_v"),
    ("attention.output", "attns.{b}.proj_out"),
    ("attention.interest_net", "attns.{b}.ref_point14"),
    ("attention.gate_net", "attns.{b}.ref_gate"),
    ("attention.offset_net.depthwise", "attns.{b}.conv_offset.0"),
    ("attention.offset_net.norm", "attns.{b}.conv_offset.1.norm"),
    ("attention.offset_net.project", "attns.{b}.conv_offset.3"),
]
MODULES = [
    ("patch_embed.projection", "patch_proj.0"),
    ("patch_embed.norm", "patch_proj.1.norm"),
    *((f"downsamples.{i}.projection", f"down_projs.{i}.0") for i in range(3)),
    *((f"downsamples.{i}.norm", f"down_projs.{i}.1.norm") for i in range(3)),
    ("norm", "cls_norm.norm"),
    ("head.color_points", "hst_head"),
    ("head.bins", "cls_head"),
]
CENTERS = "hist_feature.bin_centers_conv.bias"  # holds −centre
SLOPES = "hist_feature.widths"  # holds −slope
SLOPES_TIED = "hist_feature.bin_widths_conv.weight"  # the same parameter under a second name
FROZEN_ONES = ("hist_feature.bin_centers_conv.weight", "hist_feature.bin_widths_conv.bias")
OTHER_PARAMETERS = {
    "head.color_spaces.centers": CENTERS,
    "head.color_spaces.slopes": SLOPES,
    "unused.centers": "hist_feature.centers",
    "unused.cls_head_weight": "cls_head.weight",
    "unused.cls_head_bias": "cls_head.bias",
}
DERIVED = ("relative_position_index", "attn_mask")  # computed from the sizes
RELEASED_TARGETS = ("MOS", "color")  # of class_head and class_head2


@dataclass(frozen=True)
class ReleasedName:
    """What a parameter of ours is called there, and how its values are laid out."""

    name: str
    shape: tuple[int, ...]
    negated: bool = False

    def pack(self, ours: Tensor) -> Tensor:
        """Our values as the released code holds them."""
        return (-ours if self.negated else ours).reshape(self.shape)

    def unpack(self, theirs: Tensor, shape: torch.Size) -> Tensor:
        """Released values in our layout; a tensor of another size is returned as it is.

        Sides of 1 do not count: what a window layer takes as a linear map may come from a
        delegate layer's 1×1 convolution, where the networks' `stages` differ.
        """
        theirs = -theirs if self.negated else theirs
        same = _without_ones(theirs.shape) == _without_ones(self.shape)
        return theirs.reshape(shape) if same else theirs


def _without_ones(shape: tuple[int, ...]) -> list[int]:
    return [side for side in shape if side != 1]


def rename_table(model: DelegateTransformer) -> dict[str, ReleasedName]:
    """Our name → released name, for every parameter of `model`."""
    modules = dict(MODULES)
    one_by_one = set()  # linear maps of the delegate layers, 1×1 convolutions in the released code
    parameters = {}
    for s, stage in enumerate(model.stages):
        for b, block in enumerate(stage.blocks):
            ours, delegate = (
                f"stages.{s}.blocks.{b}",
                isinstance(block.attention, DelegateAttention),
            )
            for module, released in LAYER_MODULES:
                released = released.format(b=b, n=2 * b, m=2 * b + 1)
                modules[f"{ours}.{module}"] = f"stages.{s}.{released}"
            if delegate:
                one_by_one |= {
                    f"{ours}.{name}.weight"
                    for name, module in block.named_modules()
                    if name.startswith("attention.") and isinstance(module, nn.Linear)
                }
            table = "rpe_table" if delegate else "relative_position_bias_table"
            parameters[f"{ours}.attention.position_bias_table"] = f"stages.{s}.attns.{b}.{table}"
    for i in range(len(model.config.targets)):
        modules[f"head.scores.{i}"] = "class_head" + (str(i + 1) if i else "")

    table = {}
    for name, value in model.named_parameters():
        module, _, kind = name.rpartition(".")
        released = parameters.get(name) or OTHER_PARAMETERS.get(name) or f"{modules[module]}.{kind}"
        shape = tuple(value.shape)
        if name in one_by_one:
            shape = (*shape, 1, 1)
        elif released == SLOPES:
            shape = (value.numel(), 1, 1)
        elif released == CENTERS:
            shape = (value.numel(),)
        table[name] = ReleasedName(released, shape, negated=released in (SLOPES, CENTERS))
    return table


def is_released(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict (no prefix) bears the released names."""
    return any(name.startswith("patch_proj.") for name in state)


def from_released(
    model: DelegateTransformer, state: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], list[str], tuple[str, ...] | None]:
    """Translate a released state dict into our names.

    Returns the tensors by our name (shapes may still differ from the model's), the names left
    over, and the targets of its score heads (None where the file does not tell). Raises
    `UserError` where a frozen part of the color-space layer is not what the released code fixes.
    """
    for name in FROZEN_ONES:
        if name in state and not torch.all(state[name] == 1):
            raise UserError(f"{name} must be 1 throughout, as the released code fixes it")
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    ours = {}
    used = set(FROZEN_ONES)
    for name, row in rename_table(model).items():
        names = (SLOPES, SLOPES_TIED) if row.name == SLOPES else (row.name,)
        found = next((n for n in names if n in state), None)
        if found is None or (name.startswith("unused.") and state[found].shape != row.shape):
            continue  # an ImageNet or AVA head: of no use here
        used.update(names)
        ours[name] = row.unpack(state[found], shapes[name])
    for i, head in enumerate(("class_head", "class_head2")):  # heads this model has no place for
        for kind in ("weight", "bias"):
            if f"{head}.{kind}" in state:
                ours[f"head.scores.{i}.{kind}"] = state[f"{head}.{kind}"]
                used.add(f"{head}.{kind}")
    left = [n for n in state if n not in used and not n.endswith(DERIVED)]
    return ours, left, RELEASED_TARGETS if "class_head2.weight" in state else None


def to_released_state_dict(model: ColorAesthetics, *, tied: bool = False) -> dict[str, Tensor]:
    """The state dict that the released code's own model would have, on the CPU.

    `tied=True` adds the slopes' second name, which `load_state_dict(strict=True)` of the released
    code wants and which a list of its parameters does not show. Raises `UserError` for networks
    that the released code does not have.
    """
    if not isinstance(model, DelegateTransformer):
        raise UserError(f"{model.config.name} has no released counterpart")
    state = model.state_dict()
    released = {
        row.name: row.pack(state[name].detach().cpu()) for name, row in rename_table(model).items()
    }
    if model.config.color_spaces:
        count = released[SLOPES].numel()
        released[FROZEN_ONES[0]] = torch.ones(count, 1, 1)
        released[FROZEN_ONES[1]] = torch.ones(count)
        if tied:
            released[SLOPES_TIED] = released[SLOPES]
    for s, stage in enumerate(model.stages):
        for b, block in enumerate(stage.blocks):
            if isinstance(block.attention, WindowAttention):
                index, mask = block.attention.position_index, block.attention.mask
                released[f"stages.{s}.attns.{b}.relative_position_index"] = index.cpu()
                if mask is not None:
                    released[f"stages.{s}.attns.{b}.attn_mask"] = mask.cpu()
    return released
