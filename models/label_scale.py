"""From a network's unit scores to numbers on the scale of the labels it was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.options import DEFAULT_TARGETS, ModelConfig

RELEASED_RANGE = (0.0, 10.0)  # the released networks give rating / 10


@dataclass(frozen=True)
class LabelScale:
    """What a network's outputs mean: R names, the reported one last, and how to read them."""

    names: tuple[str, ...]
    low: float  # label of unit score 0
    high: float  # label of unit score 1
    is_distribution: bool  # ava: the outputs are shares of the ratings 1 ... 10
    quantiles: Mapping[str, Sequence[float]]  # percentiles 0 ... 100 of the training labels

    @classmethod
    def of(cls, config: ModelConfig, extra: Mapping[str, Any]) -> LabelScale:
        """The scale saved beside the weights in `extra`. Without one: ratings / 10 for the targets
        of the released networks, the unit scale for any others."""
        quantiles = extra.get("label_quantiles", {})
        if config.variant == "ava":
            return cls(("rating",), 1.0, 10.0, True, quantiles)
        released = set(config.targets) <= {*DEFAULT_TARGETS["icaa17k"], *DEFAULT_TARGETS["spaq"]}
        low, high = extra.get("unit_range", RELEASED_RANGE if released else (0.0, 1.0))
        return cls(config.targets, float(low), float(high), False, quantiles)

    def from_unit(self, scores: Tensor) -> Tensor:
        """The network's B x T output -> B x R float32 on the label's scale; ava: mean ratings."""
        scores = scores.float()
        if self.is_distribution:
            ratings = torch.arange(1, scores.shape[1] + 1, device=scores.device)
            return (scores * ratings).sum(dim=1, keepdim=True)
        return self.low + (self.high - self.low) * scores

    def percentile(self, name: str, score: float) -> float | None:
        """Share of training labels below `score`, in per cent; None if they were not saved."""
        if name not in self.quantiles:
            return None
        quantiles = np.asarray(self.quantiles[name])
        return float(np.interp(score, quantiles, np.linspace(0, 100, len(quantiles))))
