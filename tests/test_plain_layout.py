"""The benchmarks' baseline computes the released network, so its speed is a fair comparison."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import golden
from benchmarks.plain_layout import PlainDelegateTransformer
from models import to_released_state_dict


@pytest.mark.parametrize("name", ["icaa17k_tiny", "spaq_tiny"])
def test_baseline_reproduces_the_golden_scores(shared: Path, name: str) -> None:
    description, _, arrays = golden.read(shared, name)
    model, _ = golden.build(shared, name)
    plain = PlainDelegateTransformer(model.config).eval()
    plain.load_state_dict(to_released_state_dict(model, tied=True), strict=True)
    with torch.inference_mode():
        scores = plain(golden.images(description))
    np.testing.assert_allclose(scores, arrays["scores"], atol=2e-4, rtol=0)
