"""Metrics over a whole split with their bootstrap intervals, seeding, optimization.

Every metric takes `label` and `prediction` of shape (..., N) on the label's own scale, looks at the
last axis only and returns an array of shape (...): a whole bootstrap is one call on (samples, N).
A split is never cut into batches and averaged: rank correlation is not a mean over batches.
"""

from __future__ import annotations

import ctypes
import math
import random
import sys
from collections.abc import Callable

import numpy as np
import torch
from scipy.stats import rankdata
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from config import TrainConfig
from distributed import rank
from errors import UserError
from models import parameter_groups

Metric = Callable[[np.ndarray, np.ndarray, float], np.ndarray]


# ----------------------------------------------------------------------------- metrics


def mean_rating(distribution: np.ndarray) -> np.ndarray:
    """Mean rating, 1..K, of distributions N x K over the ratings 1, ..., K; N values."""
    return distribution @ np.arange(1, distribution.shape[1] + 1)


def plcc(label: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Pearson's linear correlation, -1..1; nan where either side is constant."""
    x = label - label.mean(axis=-1, keepdims=True)
    y = prediction - prediction.mean(axis=-1, keepdims=True)
    norm = np.sqrt((x * x).sum(axis=-1) * (y * y).sum(axis=-1))
    # A constant's own rounded mean may differ from it by an ulp, so the norm alone cannot tell.
    varies = (np.ptp(label, axis=-1) > 0) & (np.ptp(prediction, axis=-1) > 0) & (norm > 0)
    correlation = np.full(norm.shape, np.nan)
    np.divide((x * y).sum(axis=-1), norm, out=correlation, where=varies)
    return correlation[()]


def srcc(label: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation (ties share their mean rank); nan where either is constant."""
    return plcc(rankdata(label, axis=-1), rankdata(prediction, axis=-1))


def rmse(label: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Root mean squared error, on the label's scale."""
    return np.sqrt(np.square(label - prediction).mean(axis=-1))


def accuracy(label: np.ndarray, prediction: np.ndarray, threshold: float) -> np.ndarray:
    """Share of images where score > threshold agrees with label > threshold (the paper's)."""
    return ((label > threshold) == (prediction > threshold)).mean(axis=-1)


def balanced_accuracy(label: np.ndarray, prediction: np.ndarray, threshold: float) -> np.ndarray:
    """Mean of the two classes' recalls; of the one class present where the other is absent."""
    positive, hit = label > threshold, (label > threshold) == (prediction > threshold)
    recalls, present = [], []
    for members in (positive, ~positive):
        count = members.sum(axis=-1)
        recalls.append((hit & members).sum(axis=-1) / np.maximum(count, 1))
        present.append(count > 0)
    return sum(recalls) / (present[0].astype(int) + present[1])


def majority_accuracy(label: np.ndarray, threshold: float) -> np.ndarray:
    """What always answering the more frequent class would score: the floor for accuracy."""
    share = (label > threshold).mean(axis=-1)
    return np.maximum(share, 1 - share)


METRICS: dict[str, Metric] = {
    "srcc": lambda label, prediction, _: srcc(label, prediction),
    "plcc": lambda label, prediction, _: plcc(label, prediction),
    "accuracy": accuracy,
    "rmse": lambda label, prediction, _: rmse(label, prediction),
    "balanced_accuracy": balanced_accuracy,
    "majority_accuracy": lambda label, _, threshold: majority_accuracy(label, threshold),
}


def compute_metrics(
    label: np.ndarray, prediction: np.ndarray, threshold: float
) -> dict[str, float]:
    """All of `METRICS` over N labels and N predictions."""
    return {name: float(metric(label, prediction, threshold)) for name, metric in METRICS.items()}


def bootstrap_intervals(
    label: np.ndarray, prediction: np.ndarray, threshold: float, *, samples: int, seed: int
) -> dict[str, tuple[float, float]]:
    """95 % percentile intervals of `METRICS` over `samples` seeded resamples of the N images.

    Resamples in which a metric is undefined (nan) are left out of its interval; the interval is
    (nan, nan) where it is undefined in all of them, or where `samples` is 0.
    """
    count = len(label)
    generator = np.random.default_rng(seed)
    values: dict[str, list[np.ndarray]] = {name: [] for name in METRICS}
    chunk = max(1, 2_000_000 // count)  # resamples at a time: bounds memory to some 100 MB
    for start in range(0, samples, chunk):
        pick = generator.integers(count, size=(min(chunk, samples - start), count))
        picked_label, picked_prediction = label[pick], prediction[pick]
        for name, metric in METRICS.items():
            values[name].append(metric(picked_label, picked_prediction, threshold))
    intervals = {}
    for name, parts in values.items():
        drawn = np.concatenate(parts) if parts else np.empty(0)
        drawn = drawn[~np.isnan(drawn)]
        low, high = np.percentile(drawn, [2.5, 97.5]) if len(drawn) else (math.nan, math.nan)
        intervals[name] = (float(low), float(high))
    return intervals


# ----------------------------------------------------------------------------- seeding


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy's global generator (third-party code) and torch on every device."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    torch.manual_seed(seed)


def step_seed(*numbers: int) -> int:
    """A seed for one step, a function of the `numbers` (seed, epoch, step, rank) alone, so that a
    resumed run repeats it."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


# ----------------------------------------------------------------------------- optimization


def pick_device(name: str) -> torch.device:
    """auto: the GPU if there is one. Raises `UserError` for a GPU that is not there."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda" if count else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= count:
        raise UserError(
            f"--device {name}: torch sees {count} CUDA devices here; use --device cpu or auto"
        )
    return device


def keep_freed_memory() -> None:
    """Have the C library keep what is freed, as MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=-1 do.

    Every step on a CPU asks for the same large buffers again, and fresh pages are slow. Nothing
    happens where the C library is not glibc.
    """
    trim_threshold, mmap_max = -1, -4  # names of the parameters in malloc.h
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, -1)


def build_optimizer(config: TrainConfig, model: nn.Module) -> torch.optim.Optimizer:
    """Adam or AdamW; each group's lr is the peak that `lr_factor` scales.

    Fused: a step is one pass over the weights, a third of the time on a CPU, too.
    """
    groups = parameter_groups(
        model,
        lr=config.lr,
        weight_decay=config.weight_decay,
        new_layer_lr_factor=config.new_layer_lr_factor,
        layer_decay=config.layer_decay,
    )
    for group in groups:
        group["initial_lr"] = group["lr"]
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, lr=config.lr, fused=True)


def lr_factor(config: TrainConfig, progress: float) -> float:
    """What lr is multiplied by after `progress` epochs (1.5: in the middle of the second)."""
    if progress < config.warmup_epochs:
        return progress / config.warmup_epochs
    if config.schedule == "step":
        return config.step_factor ** (int(progress) // config.step_epochs)
    if config.schedule == "cosine":
        done = (progress - config.warmup_epochs) / (config.epochs - config.warmup_epochs)
        return 0.5 * (1 + math.cos(math.pi * done))
    return 1.0


def autocast(config: TrainConfig, device: torch.device) -> torch.autocast:
    """Mixed precision as --amp says."""
    dtype = torch.float16 if config.amp == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype=dtype, enabled=config.amp != "off")


def progress_bar(loader: DataLoader, name: str) -> tqdm:
    """A bar that leaves no trace, and none at all where nobody looks."""
    return tqdm(loader, desc=name, leave=False, disable=rank() > 0 or not sys.stderr.isatty())
