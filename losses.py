"""What training minimises: a loss of each image, and losses of the ranking within a batch.

The total is the mean of the images' losses + `plcc_weight` x (1 - PLCC) + `rank_weight` x the
pairwise ranking loss, each of the latter per target, then the mean over the targets. Weights of
images (label confidence) multiply the loss of an image, make PLCC a weighted correlation, and
weigh a pair with the product of its images' weights.

Ranking losses look at a batch, and with several processes at each one's own part of it: unlike the
images' losses they then differ a little from those of one process.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

SMALLEST_DEVIATION = 1e-4  # of B predictions, unit scale: below, PLCC's gradient would explode
RATINGS = 10.0  # a unit score times this is a rating of 0..10, what the pairs are compared on


def mse_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean over the targets of the squared error of B x T scores on the unit scale; B values."""
    return (prediction - target).square().mean(dim=1)


def emd_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """Earth mover's distance of B x K distributions (rows sum to 1); B values in [0, 1].

    Of one image: sqrt(mean over the bins of (CDF of prediction - CDF of target)^2).
    """
    difference = (prediction - target).cumsum(dim=1)
    # vector_norm has gradient 0 at distance 0, where sqrt would give infinity.
    return torch.linalg.vector_norm(difference, dim=1) / math.sqrt(target.shape[1])


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"mse": mse_loss, "emd": emd_loss}


def plcc_loss(prediction: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """1 - Pearson's correlation over the batch of B x T scores; mean over the targets, scalar.

    weight: B values above 0. A target whose labels are all equal (also: a batch of one) counts 0.
    Predictions closer together than `SMALLEST_DEVIATION` count as uncorrelated in part, so that
    the gradient stays finite.
    """
    share = torch.ones_like(target[:, 0]) if weight is None else weight
    share = (share / share.sum())[:, None]
    x = prediction - (share * prediction).sum(dim=0)
    y = target - (share * target).sum(dim=0)
    deviations = [torch.linalg.vector_norm(share.sqrt() * part, dim=0) for part in (x, y)]
    norm = math.prod(part.clamp_min(SMALLEST_DEVIATION) for part in deviations)
    varies = target.amax(dim=0) > target.amin(dim=0)
    return torch.where(varies, 1 - (share * x * y).sum(dim=0) / norm, 0.0).mean()


def rank_loss(prediction: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """RankNet's loss (Burges et al., ICML 2005, eq. 3) of B x T scores; scalar.

    Of a pair with label i above label j: log(1 + exp(-(r_i - r_j))), r = ratings of 0..10; log 2
    where the network cannot tell them apart. Weighted mean over the batch's pairs with different
    labels, then mean over the targets; a target without such a pair counts 0.
    """
    rating = RATINGS * prediction
    above = target[:, None] > target[None]  # B x B x T
    losses = softplus(rating[None] - rating[:, None])
    pairs = above.to(losses.dtype)
    if weight is not None:
        pairs = pairs * (weight[:, None] * weight[None])[..., None]
    total = pairs.sum(dim=(0, 1))
    mean = (pairs * losses).sum(dim=(0, 1)) / torch.where(total > 0, total, 1.0)
    return mean.mean()


@dataclass(frozen=True)
class Objective:
    """The loss of a batch, as the configuration asks for it; see this file's docstring."""

    loss: str  # a key of LOSSES
    plcc_weight: float = 0.0
    rank_weight: float = 0.0

    def __call__(self, prediction: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """Predictions and targets B x T on the unit scale, the images' weights B; scalar."""
        prediction = prediction.float()
        losses = LOSSES[self.loss](prediction, target)
        total = (losses if weight is None else losses * weight).mean()
        if self.plcc_weight:
            total = total + self.plcc_weight * plcc_loss(prediction, target, weight)
        if self.rank_weight:
            total = total + self.rank_weight * rank_loss(prediction, target, weight)
        return total
