"""Delegate and deformable attention worked out step by step with NumPy and SciPy."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import correlate, map_coordinates
from scipy.special import erf, expit, softmax
from torch import nn

from models.delegate_attention import DelegateAttention

GATE_SHARPNESS = 99999


def plain_attention(layer: DelegateAttention, x: np.ndarray) -> np.ndarray:
    """What `layer`, pooling "image", makes of one image: H×W×C → H×W×C."""
    H, W, C = x.shape
    G, h = layer.options.groups, layer.heads
    queries = linear(layer.query, x)
    points = np.stack([plain_points(layer, x, queries, g) for g in range(G)])  # G×N×2
    sampled = np.concatenate(
        [sample(x[..., g * C // G : (g + 1) * C // G], points[g]) for g in range(G)], axis=1
    )  # N×C
    keys, values = linear(layer.key, sampled), linear(layer.value, sampled)
    grid = cells(H)
    out = np.empty((H, W, C))
    for head in range(h):
        channels = slice(head * C // h, (head + 1) * C // h)
        table = layer.position_bias_table[head].detach().numpy()[..., None]
        for i in range(H):
            for j in range(W):
                displacement = ([grid[i], grid[j]] - points[head * G // h]) / 2  # N×2
                logits = keys[:, channels] @ queries[i, j, channels] / np.sqrt(C // h)
                weights = softmax(logits + sample(table, displacement)[:, 0])
                out[i, j, channels] = weights @ values[:, channels]
    return linear(layer.output, out)


def plain_points(
    layer: DelegateAttention, x: np.ndarray, queries: np.ndarray, group: int
) -> np.ndarray:
    """N×2 points of one group."""
    s, k = layer.options.stride, layer.kernel
    side = len(x) // s
    channels = slice(group * x.shape[2] // layer.options.groups, None)
    means = np.stack(
        [[x[i * s : i * s + s, j * s : j * s + s].mean(axis=(0, 1)) for j in range(side)]
         for i in range(side)]
    )  # fmt: skip
    offsets = offset_net(layer, queries[..., channels][..., : x.shape[2] // layer.options.groups])
    points = []
    for i in range(side - k + 1):
        for j in range(side - k + 1):
            offset = offsets[i : i + k, j : j + k].mean(axis=(0, 1))
            if layer.interest_net is None:
                points.append(np.array([cells(side)[i], cells(side)[j]]) + offset)
                continue
            interest = np.tanh(cell_net(layer.interest_net, means[i : i + k, j : j + k]))
            if not (offset * interest > 0).all():
                offset = offset * layer.options.damping
            point = interest + offset
            if layer.gate_net is not None:
                logit = cell_net(layer.gate_net, means[i : i + k, j : j + k])
                point = point * expit(-GATE_SHARPNESS * logit)
            points.append(point)
    return np.array(points)


def offset_net(layer: DelegateAttention, queries: np.ndarray) -> np.ndarray:
    """Net_o: H×W×c queries of a group → s×s×2."""
    net, stride = layer.offset_net, layer.options.stride
    if net is None:
        return np.zeros((len(queries) // stride, len(queries) // stride, 2))
    weight = net.depthwise.weight.detach().numpy()
    maps = [correlate(queries[..., c], w[0], mode="constant") for c, w in enumerate(weight)]
    y = np.stack(maps, axis=-1)[::stride, ::stride] + net.depthwise.bias.detach().numpy()
    y = (y - y.mean(-1, keepdims=True)) / np.sqrt(y.var(-1, keepdims=True) + net.norm.eps)
    y = y * net.norm.weight.detach().numpy() + net.norm.bias.detach().numpy()
    return np.tanh(linear(net.project, y * (1 + erf(y / np.sqrt(2))) / 2)) * 2 / len(y)


def cell_net(net: nn.Module, window: np.ndarray) -> np.ndarray:
    """Net_i or Net_g at one place: k×k×C cells → outputs."""
    weight = net.weight.detach().numpy().reshape(len(net.weight), -1, *window.shape[:2])
    return np.einsum("ocij,ijc->o", weight, window) + net.bias.detach().numpy()


def linear(net: nn.Linear, x: np.ndarray) -> np.ndarray:
    """…×C → …×C'."""
    bias = 0 if net.bias is None else net.bias.detach().numpy()
    return x @ net.weight.detach().numpy().T + bias


def cells(side: int) -> np.ndarray:
    """Centres of the cells of [−1, 1]."""
    return (2 * np.arange(side) + 1) / side - 1


def sample(maps: np.ndarray, points: np.ndarray) -> np.ndarray:
    """H×W×C maps at N×2 points, −1 and 1 being the first and the last row or column → N×C."""
    places = ((points + 1) / 2 * (np.array(maps.shape[:2]) - 1)).T
    options = {"order": 1, "mode": "grid-constant"}
    return np.stack([map_coordinates(maps[..., c], places, **options)
                     for c in range(maps.shape[2])], axis=1)  # fmt: skip
