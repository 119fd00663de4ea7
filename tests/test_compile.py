"""torch.compile: one graph without breaks, the same scores and gradients, no recompilations."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from models import build_model
from models.delegate_transformer import ColorAesthetics


def images(batch: int, seed: int = 0) -> Tensor:
    return torch.randn(batch, 3, 128, 128, generator=torch.Generator().manual_seed(seed))


def nano(**options: object) -> ColorAesthetics:
    torch.manual_seed(0)
    return build_model("delegate_nano", drop_path=0.0, **options)


@pytest.fixture(autouse=True)
def fresh_compiler() -> None:
    torch._dynamo.reset()


def test_training_steps_are_one_graph() -> None:
    plain, compiled = (nano(recipe="ours").train() for _ in range(2))
    counter = CompileCounterWithBackend("aot_eager")
    compiled.compile(fullgraph=True, backend=counter)
    for step in range(3):
        for model in (plain, compiled):
            model.zero_grad()
            model(images(2, step)).square().sum().backward()
        for ours, theirs in zip(compiled.parameters(), plain.parameters(), strict=True):
            if theirs.grad is not None:
                torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-5)
    assert counter.frame_count == 1  # for three steps


def test_scoring_compiles_no_more_after_the_second_batch_size() -> None:
    plain, compiled = (nano().eval() for _ in range(2))
    counter = CompileCounterWithBackend("eager")
    compiled.compile(fullgraph=True, backend=counter)
    with torch.inference_mode():
        for step, batch in enumerate((4, 4, 3, 2, 4)):
            batch_images = images(batch, step)
            torch.testing.assert_close(compiled(batch_images), plain(batch_images))
    assert counter.frame_count <= 2  # full batches, and any smaller last one


def test_bf16_scores_are_near_and_one_graph() -> None:
    plain, compiled = (nano(recipe="ours").eval() for _ in range(2))
    compiled.compile(fullgraph=True, backend="eager")
    with torch.inference_mode():
        exact = plain(images(4))
        with torch.autocast("cpu", torch.bfloat16):
            rounded, rounded_in_graph = plain(images(4)), compiled(images(4))
    torch.testing.assert_close(rounded.float(), exact, rtol=0, atol=1e-2)
    torch.testing.assert_close(rounded_in_graph, rounded, rtol=0, atol=1e-2)
