"""The golden networks, rebuilt from the formula that made them."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models import ColorAesthetics, build_model, load_weights

GOLDEN = ("icaa17k_base", "icaa17k_tiny", "spaq_base", "spaq_tiny")
COLOR_SPACES = 6


def _formula(key: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    r = np.random.RandomState((zlib.crc32(key.encode()) + seed) % 2**32)
    r = r.standard_normal(shape).astype("float32")
    if key == "hist_feature.bin_centers_conv.bias":
        centers = (np.arange(COLOR_SPACES, dtype="float32") + 0.5) / COLOR_SPACES
        return -np.tile(centers, shape[0] // COLOR_SPACES) * (1 + 0.05 * r)
    if key.endswith("norm.weight"):
        return 1 + 0.1 * r
    if key.endswith(("relative_position_bias_table", "rpe_table")):
        return 0.1 * r
    if len(shape) == 1:
        return 0.02 * r
    gain = 4.0 if "conv_offset.3" in key or "ref_point14" in key else 1.0
    return gain / np.sqrt(np.prod(shape[1:])) * r


def read(shared: Path, name: str) -> tuple[dict[str, Any], dict[str, Any], dict[str, np.ndarray]]:
    """Description, names and shapes, and arrays of one golden set."""
    folder = shared / "golden"
    description = json.loads((folder / f"{name}.json").read_text())
    keys = json.loads((folder / f"{name}.keys.json").read_text())
    with np.load(folder / f"{name}.npz") as arrays:
        return description, keys, dict(arrays)


def released_state(keys: dict[str, Any], seed: int) -> dict[str, Tensor]:
    """The released state dict of a golden set: parameters only.

    The slopes go by their first name, hist_feature.widths, and so take the general formula (the
    exception that the golden files' description makes for their second name never applied).
    """
    state = {}
    for key, entry in keys["parameters"].items():
        shape = tuple(entry["shape"])
        frozen = not entry["trainable"]
        value = np.ones(shape, "float32") if frozen else _formula(key, shape, seed)
        state[key] = torch.from_numpy(np.asarray(value, "float32"))
    return state


def build(shared: Path, name: str) -> tuple[ColorAesthetics, dict[str, Tensor]]:
    """A golden network in evaluation mode, and the released state dict it was loaded from."""
    description, keys, _ = read(shared, name)
    model = build_model(
        f"delegate_{description['size']}", description["variant"], drop_path=0.0
    ).eval()
    state = released_state(keys, description["seed"])
    report = load_weights(model, state)
    assert not report.missing
    assert not report.unexpected
    return model, state


def images(description: dict[str, Any]) -> Tensor:
    """The golden input batch."""
    random = np.random.RandomState(description["seed"] + 1)
    size = description["image_size"]
    values = random.standard_normal((description["batch"], 3, size, size))
    return torch.from_numpy(values.astype("float32"))


def target(description: dict[str, Any], shape: tuple[int, ...]) -> Tensor:
    """The golden loss' target."""
    random = np.random.RandomState(description["seed"] + 2)
    return torch.from_numpy(random.uniform(0.2, 0.8, shape).astype("float32"))
