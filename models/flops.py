"""Cost of a network in floating point operations."""

from __future__ import annotations

import copy

import torch
from torch.utils.flop_counter import FlopCounterMode

from models.delegate_transformer import ColorAesthetics


def count_flops(model: ColorAesthetics) -> int:
    """Floating point operations of one image's forward pass, see `flop_counter`."""
    return flop_counter(model).get_total_flops()


def flop_counter(model: ColorAesthetics) -> FlopCounterMode:
    """The operations of one image's forward pass, by module, multiply and add counted apart.

    Counted by torch's FlopCounterMode: convolutions and matrix products, those of attention among
    them. Bilinear sampling, norms, softmax and activations are not. What runs is a copy in
    evaluation mode without values (device "meta"), so `model` stays as it is and nothing is timed.
    """
    twin = copy.deepcopy(model).to("meta").eval()
    size = model.config.image_size
    image = torch.empty(1, 3, size, size, device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        twin(image)
    return counter
