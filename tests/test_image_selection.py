"""f_subj and the balanced selection of the paper's section 4."""

from __future__ import annotations

import numpy as np
import pytest

from errors import UserError
from image_selection import balanced_selection, subjective_score


def test_faves_over_the_root_of_views() -> None:
    found = subjective_score([0, 6, 50], [4, 9, 10_000])
    assert found.tolist() == pytest.approx([0, 2, 0.5])


@pytest.mark.parametrize(
    ("faves", "views", "message"),
    [
        ([1, -2], [4, 4], "faves must be 0 or more: -2.0 at index 1"),
        ([1, 2], [4, 0], "views must be above 0"),
        ([1, 2], [-1, 4], "at index 0"),
        ([np.nan], [4], "faves"),
        ([1], [np.inf], "views"),
        ([1, 2], [4], "as many"),
    ],
)
def test_impossible_counts_are_errors(faves: list, views: list, message: str) -> None:
    with pytest.raises(UserError, match=message):
        subjective_score(faves, views)


def per_bin(scores: np.ndarray, chosen: np.ndarray, bins: int) -> list[int]:
    return np.histogram(scores[chosen], bins, range=(scores.min(), scores.max()))[0].tolist()


def test_every_range_gives_as_many() -> None:
    scores = np.random.default_rng(0).normal(5, 1, 20_000).clip(2.5, 7.5)
    chosen = balanced_selection(scores, count=1000, bins=5, seed=3)
    assert per_bin(scores, chosen, 5) == [200] * 5
    assert (np.diff(chosen) > 0).all()
    assert chosen.tolist() == balanced_selection(scores, count=1000, bins=5, seed=3).tolist()
    assert chosen.tolist() != balanced_selection(scores, count=1000, bins=5, seed=4).tolist()


def test_others_make_up_for_a_bin_that_is_short() -> None:
    """Bins hold 2, 10, 30, 1 of which 20 are wanted: 2 + 8.5 + 8.5 + 1."""
    scores = np.repeat([0.5, 1.5, 2.5, 3.5], [2, 10, 30, 1]) + np.linspace(-0.4, 0.4, 43)
    scores[0], scores[-1] = 0, 4  # the whole range
    counts = per_bin(scores, balanced_selection(scores, count=20, bins=4), 4)
    assert sorted(counts) == [1, 2, 8, 9]
    assert (counts[0], counts[3]) == (2, 1)


def test_all_none_and_a_constant() -> None:
    scores = np.array([3.0, 1.0, 2.0])
    assert balanced_selection(scores, count=3).tolist() == [0, 1, 2]
    assert balanced_selection(scores, count=0).tolist() == []
    assert balanced_selection([], count=0).tolist() == []
    assert len(balanced_selection(np.full(9, 5.0), count=4)) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [({"count": 4}, "4 of 3"), ({"count": -1}, "-1 of 3"), ({"count": 1, "bins": 0}, "bins")],
)
def test_impossible_selections_are_errors(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        balanced_selection([1.0, 2.0, 3.0], **options)


def test_scores_must_be_finite() -> None:
    with pytest.raises(UserError, match="scores must be finite: nan at index 1"):
        balanced_selection([1.0, np.nan], count=1)
