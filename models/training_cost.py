"""What a training step can leave out without changing its result.

Two savings, both exact: residual branches are worked out only for the images that stochastic depth
keeps, and activations that are cheap to make again are not kept for the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from torchvision.ops import stochastic_depth

Branch = Callable[[Tensor], Tensor]


def recomputed(function: Callable[..., Tensor], *inputs: Any) -> Tensor:
    """`function(*inputs)`, whose intermediate results are made again in the backward pass.

    Nothing is gained by remaking its last operation, and torch does not: it stops as soon as it has
    every tensor that the backward pass asks for. So a function that ends in a linear layer costs
    what comes before that layer. A compiled graph decides for itself what to keep.
    """
    if not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return function(*inputs)
    return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)


def add_branch(x: Tensor, branch: Branch, drop_rate: float) -> Tensor:
    """x + branch(x) with stochastic depth: B×… → B×…; every image loses the branch with probability
    `drop_rate`, and the branch of the others is divided by `1 − drop_rate` (torchvision's "row"
    mode, same random draws).

    On the CPU the branch gets only the images that keep it: with the rates of delegate_base a
    quarter of all work is not done. Elsewhere it gets all of them, since the number of images
    would have to come back from the device, and shapes would change from step to step.
    `branch` must treat every image by itself.
    """
    if drop_rate == 0:
        return x + branch(x)
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return x + stochastic_depth(branch(x), drop_rate, "row")
    keep = torch.empty(len(x), dtype=x.dtype).bernoulli_(1 - drop_rate).bool()
    if keep.all():
        return torch.add(x, branch(x), alpha=1 / (1 - drop_rate))
    # One image times 0 where none is left: weights then get a gradient of 0, not none at all.
    rows = keep.nonzero().flatten() if keep.any() else torch.zeros(1, dtype=torch.int64)
    factor = 1 / (1 - drop_rate) if keep.any() else 0.0
    kept = branch(x.index_select(0, rows)).to(x.dtype)
    return x.index_add(0, rows, kept, alpha=factor)
