"""A photograph's own dominant colors."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image

SIDE = 96  # pixels of the longer side that are clustered: enough for shares of colors


class Swatch(NamedTuple):
    """One dominant color."""

    rgb: tuple[float, float, float]  # sRGB, 0 … 1
    share: float  # of the photograph's area, 0 … 1


def dominant_colors(image: Image.Image, count: int = 6) -> list[Swatch]:
    """At most `count` colors that stand for an RGB image, the largest share first.

    k-means in CIELAB, where equal distances look about equally different. Deterministic.
    """
    from skimage.color import lab2rgb, rgb2lab  # these two take seconds to import
    from sklearn.cluster import KMeans

    small = image.copy()
    small.thumbnail((SIDE, SIDE), Image.Resampling.BOX)
    pixels = np.asarray(small).reshape(-1, 3)
    count = min(count, len(np.unique(pixels, axis=0)))
    clusters = KMeans(count, n_init=4, random_state=0).fit(rgb2lab(pixels / 255))
    shares = np.bincount(clusters.labels_, minlength=count) / len(pixels)
    colors = lab2rgb(clusters.cluster_centers_)
    order = np.argsort(-shares, kind="stable")
    return [Swatch(tuple(colors[i].tolist()), float(shares[i])) for i in order]
