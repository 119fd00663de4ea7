"""Color-space segmentation and the heads that read it (paper, equation 5)."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from models.precision import at_least_float32, full_precision


class ColorSpaces(nn.Module):
    """s_i(p_j) = max(0, 1 − w_ij · |p_j − c_ij|): how far color point j lies in color space i.

    Centres start at (i + 0.5)/κ, so the κ spaces cover [0, 1]; slopes start at `slope`·κ.
    """

    def __init__(self, num_color_points: int, color_spaces: int, slope: float) -> None:
        super().__init__()
        centers = (torch.arange(color_spaces) + 0.5) / color_spaces
        self.centers = nn.Parameter(centers.repeat(num_color_points, 1))  # P×κ
        self.slopes = nn.Parameter(torch.full_like(self.centers, slope * color_spaces))

    def forward(self, color_points: Tensor) -> Tensor:
        """B×P → B×(P·κ), point-major: point 0's κ spaces, point 1's, …"""
        distance = (color_points[:, :, None] - self.centers).abs()
        return torch.relu(1 - self.slopes * distance).flatten(1)


class Head(nn.Module, ABC):
    """Pooled features → scores; in float32 under autocast, too: the color spaces are steep."""

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """B×C → scores, color points B×P and color-space weights B×(P·κ), None without them."""
        with full_precision(pooled.device):
            return self.score(at_least_float32(pooled))

    @abstractmethod
    def score(self, pooled: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """`forward`, in the precision of `pooled`."""


class ColorHead(Head):
    """Pooled features → color points → color-space weights → one score in (0, 1) a target."""

    def __init__(
        self,
        dim: int,
        num_targets: int,
        num_color_points: int,
        color_spaces: int,
        *,
        slope: float,
        unit_range: bool,
    ) -> None:
        super().__init__()
        self.unit_range = unit_range
        self.color_points = nn.Linear(dim, num_color_points)
        self.color_spaces = ColorSpaces(num_color_points, color_spaces, slope)
        self.scores = _score_heads(num_color_points * color_spaces, num_targets)

    @torch.no_grad()
    def init_linear(self) -> None:
        """Start the scores as linear functions of the color points.

        A weight of `a·(c_i − ½)` for space i of a point makes its spaces' weighted sum rise evenly
        with the point where the spaces overlap by half, so early gradients agree across spaces
        instead of changing sign from one to the next.
        """
        points = len(self.color_spaces.centers)
        nn.init.normal_(self.color_points.weight, std=self.color_points.in_features**-0.5)
        nn.init.zeros_(self.color_points.bias)
        for head in self.scores:
            slope = torch.randn(points, 1) * points**-0.5
            head.weight.copy_((slope * (self.color_spaces.centers - 0.5) * 2).view(1, -1))
            nn.init.zeros_(head.bias)

    def score(self, pooled: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """B×C → scores B×T, color points B×P, color-space weights B×(P·κ)."""
        points = self.color_points(pooled)
        if self.unit_range:
            points = torch.sigmoid(points)
        weights = self.color_spaces(points)
        scores = torch.cat([head(weights) for head in self.scores], dim=1)
        return torch.sigmoid(scores), points, weights


class PlainHead(Head):
    """Without color-space segmentation: pooled features → one score in (0, 1) a target."""

    def __init__(self, dim: int, num_targets: int) -> None:
        super().__init__()
        self.scores = _score_heads(dim, num_targets)

    def score(self, pooled: Tensor) -> tuple[Tensor, None, None]:
        """B×C → scores B×T; no color points, no weights."""
        scores = torch.cat([head(pooled) for head in self.scores], dim=1)
        return torch.sigmoid(scores), None, None


class DistributionHead(Head):
    """AVA: pooled features → shares of the ratings 1 … 10."""

    def __init__(self, dim: int, bins: int) -> None:
        super().__init__()
        self.bins = nn.Linear(dim, bins)

    def score(self, pooled: Tensor) -> tuple[Tensor, None, None]:
        """B×C → B×10, rows summing to one; no color points, no weights."""
        return self.bins(pooled).softmax(dim=1), None, None


def _score_heads(dim: int, num_targets: int) -> nn.ModuleList:
    return nn.ModuleList(nn.Linear(dim, 1) for _ in range(num_targets))


def dead_color_points(color_space_weights: Tensor, num_color_points: int) -> Tensor:
    """Share (0-d, 0 … 1) of the B·P color points that lie in no space: zero weight, no gradient."""
    weights = color_space_weights.view(len(color_space_weights), num_color_points, -1)
    return (weights == 0).all(dim=2).float().mean()
