"""What a network saw in one photograph, as numbers in the photograph's own pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from errors import UserError
from geometry import Placement, to_map, to_pixels
from models import ColorAesthetics
from models.color_spaces import ColorHead
from models.layers import LayerExplanation
from models.sampling import sample_bilinear
from models.scoring_api import scoring_mode
from preprocessing import normalise, resize
from saliency import saliency

STAGE = 3  # of the points that are shown: its map is twice as fine as stage 4's


@dataclass(frozen=True)
class DelegatePoints:
    """The points of one delegate layer: N points, G groups, (y, x) pixels.

    A closed gate moves its point to the centre of what the network was shown. So `keys` are the
    places that the layer reads: the open points and, where any gate is closed, the centre once, as
    the last. Points beyond the photograph's pixels are on its padding.
    """

    interest: np.ndarray  # N×2, before the offsets
    moved: np.ndarray  # G×N×2, after the offsets, before the gate
    is_open: np.ndarray  # N booleans
    keys: np.ndarray  # K×2
    attention: np.ndarray  # K shares, summing to 1: over all heads, queries and points at the place


@dataclass(frozen=True)
class Segmentation:
    """Each key's color space, see `segment`."""

    spaces: np.ndarray  # K integers, 0 … κ − 1
    ranks: np.ndarray  # κ integers: 1 is the space of most keys


@dataclass(frozen=True)
class PhotoExplanation:
    """All that the figure of a photograph shows."""

    image: Image.Image  # RGB
    points: DelegatePoints
    segmentation: Segmentation | None  # None where the head has no color spaces
    space_weights: np.ndarray | None  # P×κ: weights of the color points over the color spaces
    saliency: np.ndarray  # H×W in −1 … 1, over all that the network was shown
    placement: Placement  # of the photograph in what the network was shown

    @property
    def frame(self) -> tuple[float, float, float, float]:
        """Top, left, bottom, right of what the network was shown, in the photograph's pixels:
        the photograph's own borders where there is no padding."""
        return self.placement.frame((self.image.height, self.image.width))


def explain_image(model: ColorAesthetics, image: Image.Image) -> PhotoExplanation:
    """Explain the reported score of an RGB image.

    Raises `UserError` for a network in which no layer has points (`stages="SSSS"`).
    """
    size = (image.height, image.width)
    side, aspect = model.config.image_size, model.config.aspect
    placement = Placement.of(size, side, aspect)
    pixels = normalise(resize(image, side, aspect))[None]
    pixels = pixels.to(next(model.parameters()).device)
    heat = saliency(model, pixels)[0]
    layers: list[LayerExplanation] = []
    with scoring_mode(model), torch.inference_mode():
        maps = model.forward_maps(pixels, layers)  # 1×H×W×C
        layer = shown_layer(layers)
        places, attention = _keys(layer)
        points = _in_pixels(layer, places, attention, size, placement)
        if not isinstance(model.head, ColorHead):
            return PhotoExplanation(image, points, None, None, heat, placement)
        weights = model.head(maps.mean(dim=(1, 2)))[2].view(model.config.num_color_points, -1)
        places = to_map(places, layer.map_size, maps.shape[1:3])
        segmentation = segment(model.head, maps, places)
    return PhotoExplanation(image, points, segmentation, _array(weights), heat, placement)


def shown_layer(layers: list[LayerExplanation]) -> LayerExplanation:
    """The last layer of stage 3 or, where that has no points, of the network. Raises `UserError`
    where there is none."""
    if not layers:
        raise UserError("no layer of this network has points to show: its stages are all S")
    return max(layers, key=lambda layer: (layer.stage == STAGE, layer.stage, layer.block))


def _keys(layer: LayerExplanation) -> tuple[np.ndarray, np.ndarray]:
    """K×2 different places (y, x) in [−1, 1] that the layer reads, and their K attention shares."""
    groups = layer.points.shape[1]
    places = _array(layer.points[0]).reshape(groups, -1, 2)  # G×N×2
    attention = layer.attention[0].sum(dim=1)  # heads×N: over queries
    attention = _array(attention).reshape(groups, -1, places.shape[1]).sum(axis=1)  # G×N
    attention /= attention.sum()
    is_open = _is_open(layer)
    open_places, open_attention = places[:, is_open].reshape(-1, 2), attention[:, is_open].ravel()
    if is_open.all():
        return open_places, open_attention
    centre = attention[:, ~is_open].sum()
    return np.vstack([open_places, np.zeros((1, 2))]), np.append(open_attention, centre)


def _is_open(layer: LayerExplanation) -> np.ndarray:
    """N booleans: which gates are open; all of them in a network without gates."""
    positions = layer.attention.shape[-1]
    if layer.gate is None:
        return np.ones(positions, dtype=bool)
    return _array(layer.gate).ravel()[:positions] > 0.5


def _in_pixels(
    layer: LayerExplanation,
    places: np.ndarray,
    attention: np.ndarray,
    size: tuple[int, int],
    placement: Placement,
) -> DelegatePoints:
    groups = layer.points.shape[1]
    interest = _array(layer.interest_points).reshape(-1, 2)  # one image: N×2 either way
    offsets = np.zeros((groups, 1, 1))
    if layer.offsets is not None:
        offsets = _array(layer.offsets[0]).reshape(groups, -1, 2)
    interest, moved, keys = (
        to_pixels(points, layer.map_size, size, placement)
        for points in (interest, interest + offsets, places)
    )
    return DelegatePoints(interest, moved, _is_open(layer), keys, attention)


def segment(head: ColorHead, maps: Tensor, places: np.ndarray) -> Segmentation:
    """Assign each of K places (K×2, on the last map, 1×H×W×C) to one of κ color spaces.

    The head's color points are linear in the features, and the pooled features are the mean of the
    last map over its positions. So the map's feature at a place, read bilinearly, has color points
    p_j of its own; over the positions they average to the photograph's (before the sigmoid, where
    there is one). The place belongs to the space i of the largest Σ_j |v_ij| · s_i(p_j): the weight
    of its color points in the space (eq. 5), each counted by how much the reported score heeds it
    (v_ij is the score head's weight). Of equal spaces the first is taken. Spaces are ranked by the
    number of their places.
    """
    at = torch.from_numpy(places).to(maps).clamp(-1, 1)  # the border's feature, beyond the border
    features = sample_bilinear(maps.permute(0, 3, 1, 2), at.view(1, 1, -1, 2))[0, :, 0].T  # K×C
    _, color_points, weights = head(features)
    heed = head.scores[-1].weight.abs().view(1, color_points.shape[1], -1)  # 1×P×κ
    membership = (weights.view(len(places), color_points.shape[1], -1) * heed).sum(dim=1)  # K×κ
    spaces = _array(membership.argmax(dim=1)).astype(int)
    counts = np.bincount(spaces, minlength=membership.shape[1])
    ranks = np.empty(len(counts), dtype=int)
    ranks[np.argsort(-counts, kind="stable")] = np.arange(1, len(counts) + 1)
    return Segmentation(spaces, ranks)


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().float().cpu().numpy()
