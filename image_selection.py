"""Choosing photographs for a data set as the paper's section 4 does: popular ones, spread evenly.

f_subj (eq. 7) is how much people who saw a photograph on a sharing site liked it;
`balanced_selection` takes equally many of each range of a score (f_subj, f_obj, ...).
"""

from __future__ import annotations

import numpy as np

from errors import UserError


def subjective_score(faves: np.ndarray, views: np.ndarray) -> np.ndarray:
    """f_subj = faves / √views of N photographs (eq. 7).

    Raises `UserError` for faves below 0, views not above 0, numbers that are not finite, and
    shapes that differ.
    """
    faves, views = np.asarray(faves, dtype=float), np.asarray(views, dtype=float)
    if faves.shape != views.shape:
        raise UserError(f"as many faves as views are needed: {faves.shape} and {views.shape}")
    _check("faves", faves, faves >= 0, "0 or more")
    _check("views", views, views > 0, "above 0; leave unseen photographs out")
    return faves / np.sqrt(views)


def balanced_selection(
    scores: np.ndarray, *, count: int, bins: int = 10, seed: int = 0
) -> np.ndarray:
    """Indices, ascending, of `count` of N photographs whose scores fill their range evenly.

    The range from the lowest to the highest score is cut into `bins` of equal width, and equally
    many are drawn from each at random. A bin that holds fewer gives all, and the others make up for
    it evenly (where that does not come out even, bins drawn at random give one more).

    Raises `UserError` for scores that are not finite, and for a count or bins out of range.
    """
    scores = np.asarray(scores, dtype=float)
    _check("scores", scores, np.isfinite(scores), "finite")
    if not 0 <= count <= len(scores):
        raise UserError(f"{count} of {len(scores)} photographs cannot be selected")
    if bins < 1:
        raise UserError(f"bins must be 1 or more, not {bins}")
    rng = np.random.default_rng(seed)
    lowest, highest = (scores.min(), scores.max()) if count else (0, 0)
    members = np.digitize(scores, np.linspace(lowest, highest, bins + 1)[1:-1])
    held = np.bincount(members, minlength=bins)
    quotas = _even_quotas(held, count, rng)
    drawn = [
        rng.choice(np.flatnonzero(members == i), quota, replace=False)
        for i, quota in enumerate(quotas)
    ]
    return np.sort(np.concatenate(drawn))


def _even_quotas(held: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """How many to take of each bin: as equal as can be, at most `held`, `count` in all."""
    quotas = np.zeros_like(held)
    while missing := count - quotas.sum():
        open_bins = np.flatnonzero(quotas < held)
        share = missing // len(open_bins)
        if share == 0:  # fewer are missing than there are bins left
            quotas[rng.choice(open_bins, missing, replace=False)] += 1
        else:
            quotas[open_bins] = np.minimum(quotas[open_bins] + share, held[open_bins])
    return quotas


def _check(name: str, numbers: np.ndarray, good: np.ndarray, must: str) -> None:
    """Raise `UserError` naming the first of `numbers` that is not `good` or not finite."""
    bad = np.flatnonzero(~(good & np.isfinite(numbers)))
    if bad.size:
        raise UserError(f"{name} must be {must}: {numbers.flat[bad[0]]} at index {bad[0]}")
