"""What is worked out once from a layer's weights and serves until they change."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class Kept(nn.Module):
    """A place in a layer for one tensor that a weight of that layer alone decides.

    No part of what is saved; copies of the layer start without.
    """

    def __init__(self) -> None:
        super().__init__()
        self.forget()

    def forget(self) -> None:
        """Work it out anew the next time."""
        self._state: tuple | None = None
        self._made: Tensor | None = None

    def train(self, mode: bool = True) -> Kept:
        """As in every Module, and what was kept is forgotten: fused optimizers change weights
        without counting it as a version."""
        self.forget()
        return super().train(mode)

    def forward(self, weight: Tensor, make: Callable[[], Tensor]) -> Tensor:
        """`make()`, or what it gave for the same state of `weight`, where gradients are off.

        Of inference tensors, which count no versions, nothing is kept.
        """
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or weight.is_inference():
            return make()
        state = (weight._version, weight.data_ptr(), weight.device, weight.dtype)
        if self._made is None or self._state != state:
            self._state, self._made = state, make()
        return self._made

    def __deepcopy__(self, memo: dict) -> Kept:
        return Kept()

    def __reduce__(self) -> tuple[type[Kept], tuple[()]]:
        return Kept, ()
