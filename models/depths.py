"""How far below the head each parameter is: what layer-wise learning-rate decay goes by.

As in ELECTRA (Clark et al., ICLR 2020) and BEiT (Bao et al., ICLR 2022), a layer d below the head
learns at lr x decay^d.
"""

from __future__ import annotations

import itertools
import re

import torch
from torch import Tensor

from models.backbones import PROBE_SIZE, Backbone
from models.delegate_cnn import DelegateCNN
from models.delegate_transformer import ColorAesthetics

STRIDES = (4, 8, 16, 32)  # of a backbone's stages; a map of stride 2 belongs to the first


def layer_depths(model: ColorAesthetics) -> dict[str, int]:
    """{name of a parameter: layers between it and the head}.

    0: heads and the norm before them. 1, 2, ...: attention layers, from the last to the first; a
    downsampling belongs to the layer before it, as in Swin's own rule. One more: the patch
    embedding; or of a CNN, with what leads from its maps into the stages, the stage of stride 32,
    then those of 16, 8, and 4 or less.
    """
    names = [name for name, _ in model.named_parameters()]
    found = (re.match(r"(stage.*?)blocks\.\d+\.", name) for name in names)
    blocks = {match[0]: match[1] for match in found if match}  # {prefix: its stage's prefix}
    last_of = {stage: prefix for prefix, stage in blocks.items()}  # the stage's last layer
    below = dict(zip(reversed(blocks), itertools.count(1)))
    entry = len(blocks) + 1
    depths = dict.fromkeys(("head.", "norm.", "unused."), 0) | below
    if isinstance(model, DelegateCNN):
        depths |= {"downsample.": below[last_of["stage3."]], "enter3.": entry, "enter4.": entry}
        stages = backbone_stages(model.backbone)
        depths |= {f"backbone.{name}": entry + 3 - stage for name, stage in stages.items()}
    else:
        depths |= {f"downsamples.{i}.": below[last_of[f"stages.{i}."]] for i in range(3)}
        depths["patch_embed."] = entry
    return {
        name: next(depth for prefix, depth in depths.items() if name.startswith(prefix))
        for name in names
    }


def backbone_stages(backbone: Backbone) -> dict[str, int]:
    """{name of a parameter: 0, 1, 2 or 3}: stages whose maps have stride 4 or less, 8, 16, 32.

    A probe tells the stride of each module's output; what gives no map (squeeze-and-excitation,
    a bare parameter) belongs to the stage of what stands before it.
    """
    sides: dict[str, int] = {}

    def note(name: str, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4:
            sides[name] = output.shape[-1]

    hooks = [
        module.register_forward_hook(lambda _, __, output, name=name: note(name, output))
        for name, module in backbone.named_modules()
    ]
    training = {module: module.training for module in backbone.modules()}
    try:
        with torch.no_grad():
            device = next(backbone.parameters()).device
            backbone.eval()(torch.zeros(1, 3, PROBE_SIZE, PROBE_SIZE, device=device))
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in training.items():
            module.training = mode
    stages, stage = {}, 0
    for name, _ in backbone.named_parameters():
        stride = PROBE_SIZE // sides.get(name.rpartition(".")[0], PROBE_SIZE)
        if 1 < stride <= STRIDES[-1]:
            stage = STRIDES.index(max(stride, STRIDES[0]))
        stages[name] = stage
    return stages
