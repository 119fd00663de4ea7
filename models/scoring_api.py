"""`model.score(photo)`: the one way from a photograph to numbers on the label's own scale."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from errors import UserError
from models.delegate_attention import DelegateAttention
from models.label_scale import LabelScale
from models.options import ModelConfig
from preprocessing import Photo, as_rgb, network_input, resize


class Scoring(nn.Module):
    """What a network with a `config` and `extra` needs to score photographs.

    No image heeds its neighbours (`without_company`): a score is that of the photograph alone.
    """

    config: ModelConfig
    extra: dict[str, Any]

    @property
    def label_scale(self) -> LabelScale:
        """What the outputs mean."""
        return LabelScale.of(self.config, self.extra)

    def score(
        self, photos: Photo | Sequence[Photo], *, batch_size: int = 16
    ) -> dict[str, float] | list[dict[str, float]]:
        """Score one photograph, or each of a list: {target: score on the label's own scale}.

        A photograph is a path, a Pillow image, an H x W x 3 uint8 array or a 3 x H x W tensor
        (uint8, or floats in [0, 1]). Raises `UserError` for anything else and for unreadable files.
        """
        if not isinstance(photos, (list, tuple)):
            return self.score([photos])[0]
        if batch_size < 1:
            raise UserError(f"batch size {batch_size}: at least 1 is needed")
        names, results = self.label_scale.names, []
        for start in range(0, len(photos), batch_size):
            chunk = photos[start : start + batch_size]
            size, aspect = self.config.image_size, self.config.aspect
            pixels = torch.stack([resize(as_rgb(photo), size, aspect) for photo in chunk])
            scores = self.score_pixels(pixels).tolist()
            results += [dict(zip(names, row, strict=True)) for row in scores]
        return results

    def score_pixels(self, pixels: Tensor) -> Tensor:
        """uint8 B x 3 x S x S -> float32 B x R on the label's scale, on the CPU."""
        device = next(self.parameters()).device
        pixels = pixels.to(device, non_blocking=True)
        with scoring_mode(self), torch.inference_mode():
            unit = self(network_input(pixels, self.config.name))
            return self.label_scale.from_unit(unit).cpu()


def set_point_pooling(model: Scoring, pooling: str) -> None:
    """Pool interest points and gates in another way, see `OPTIONS["point_pooling"]`.

    Raises `UserError` for "running" where the network has kept no running averages.
    """
    for module in model.modules():
        if isinstance(module, DelegateAttention):
            module.set_pooling(pooling)
    model.config = replace(model.config, point_pooling=pooling)


def without_company(pooling: str) -> str:
    """The `point_pooling` of evaluation that goes with that of training: each image's own points
    in place of the batch's, which is the same at batch size 1; "running" is evaluated as it is."""
    return "image" if pooling == "batch" else pooling


@contextmanager
def scoring_mode(model: Scoring) -> Iterator[None]:
    """Evaluation mode in which no image heeds another; what was before is restored after."""
    training, pooling = model.training, model.config.point_pooling
    alone = without_company(pooling)
    if training:
        model.eval()
    if pooling != alone:
        set_point_pooling(model, alone)
    try:
        yield
    finally:
        if training:
            model.train()
        if pooling != alone:
            set_point_pooling(model, pooling)
