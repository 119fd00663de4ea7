"""What stays in float32 under autocast: points, sampling, position bias and the score heads; and
where there is nothing but float32."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cache

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


def is_plain_float32(*tensors: Tensor) -> bool:
    """Whether all are float32 on a CPU, outside of autocast and of graphs that are being traced:
    where operations of this package's own may stand for torch's."""
    return (
        not torch.compiler.is_compiling()  # first: the rest cannot be traced
        and all(t.device.type == "cpu" and t.dtype == torch.float32 for t in tensors)
        and not torch.is_autocast_enabled("cpu")
        and _is_x86()
    )


@cache
def _is_x86() -> bool:
    """Whether this is an x86-64 with AVX, where those operations were measured."""
    return torch.backends.cpu.get_cpu_capability().startswith("AVX")
