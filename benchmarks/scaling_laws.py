"""How a cost grows: fitted exponents, and the share of attention over points by counting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import nnls
from scipy.stats import linregress, t

from models import build_model
from models.delegate_attention import DelegateAttention
from models.flops import flop_counter
from models.options import ARCHITECTURES

CONFIDENCE = 0.95
PRODUCTS = ("aten.bmm", "aten.baddbmm", "aten._scaled_dot_product")  # of queries, keys, values


@dataclass(frozen=True)
class PowerLaw:
    """y = factor · x^exponent, with the exponent's 95 % interval: (nan, nan) for two points."""

    factor: float
    exponent: float
    interval: tuple[float, float]

    @classmethod
    def fit(cls, x: Sequence[float], y: Sequence[float]) -> PowerLaw:
        """Least squares of log y over log x, all positive; at least two different x."""
        line = linregress(np.log(x), np.log(y))
        freedom = len(x) - 2
        half = t.ppf((1 + CONFIDENCE) / 2, freedom) * line.stderr if freedom else np.nan
        interval = (float(line.slope - half), float(line.slope + half))
        return cls(float(np.exp(line.intercept)), float(line.slope), interval)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """The fitted cost at x."""
        return self.factor * np.asarray(x) ** self.exponent


@dataclass(frozen=True)
class TwoTerms:
    """y = linear · n + square · n², n being the pixels of an image: all layers of the network but
    attention over points cost the first, attention over points, whose number grows with n, the
    second."""

    linear: float
    square: float

    @classmethod
    def fit(cls, side: Sequence[float], y: Sequence[float]) -> TwoTerms:
        """Least squares of the relative errors at images of side × side pixels, neither term below
        zero."""
        n, y = np.square(np.asarray(side, dtype=float)), np.asarray(y, dtype=float)
        terms, _ = nnls(np.stack([n, n**2], axis=1) / y[:, None], np.ones(len(y)))
        return cls(*terms.tolist())

    def square_share(self, side: float) -> float:
        """Share of the second term, 0 … 1, at side × side pixels."""
        return self.square * side**2 / (self.linear + self.square * side**2)

    @property
    def crossing(self) -> float:
        """Side of the image above which the second term is the larger; inf where there is none.

        It need not be a side that the network takes.
        """
        return float(np.sqrt(self.linear / self.square)) if self.square else float("inf")


@dataclass(frozen=True)
class Flops:
    """Operations of one image's forward pass, multiply and add counted apart."""

    total: int
    over_points: int  # of delegate layers: products of queries and keys, attention and values

    @property
    def share(self) -> float:
        """Of attention over points, 0 … 1."""
        return self.over_points / self.total


def count(name: str, image_size: int) -> Flops:
    """FLOPs of the network `name` by torch's counter, without computing (device "meta").

    Bilinear sampling, of features and of the position bias, is not counted: for each query, point
    and head the bias takes some 8 operations beside the 4 · 32 of the products.
    """
    with torch.device("meta"):
        model = build_model(name, image_size=image_size)
    counter = flop_counter(model)
    counts = counter.get_flop_counts()
    top = type(model).__name__
    layers = [n for n, layer in model.named_modules() if isinstance(layer, DelegateAttention)]
    over_points = sum(
        flops
        for layer in layers
        for operator, flops in counts[f"{top}.{layer}"].items()
        if str(operator).startswith(PRODUCTS)
    )
    return Flops(counter.get_total_flops(), over_points)


def unit(name: str) -> int:
    """Images of network `name` have multiples of this many pixels a side."""
    return 32 * ARCHITECTURES[name].window


def counted_terms(name: str) -> TwoTerms:
    """The two terms of network `name` in FLOPs, from its counts at two sizes."""
    sizes = [unit(name), 2 * unit(name)]
    return TwoTerms.fit(sizes, [count(name, size).total for size in sizes])
