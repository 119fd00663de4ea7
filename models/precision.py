"""What stays in float32 under autocast: points, sampling, position bias and the score heads."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Autocast off where it is on. (Where it is off there is nothing to enter, so that exported
    graphs hold no context.)"""
    kind = device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return nullcontext()


def at_least_float32(x: Tensor) -> Tensor:
    """Half precision becomes float32; anything else stays as it is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
