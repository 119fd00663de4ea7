"""Where in a photograph the score comes from: Grad-CAM (paper, figure 5)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from models import ColorAesthetics
from models.scoring_api import scoring_mode


def reported_score(model: ColorAesthetics, scores: Tensor) -> Tensor:
    """One image's output (T scores, or ten shares) → its reported score on the label's scale."""
    return model.label_scale.from_unit(scores[None])[0, -1]


def saliency(model: ColorAesthetics, images: Tensor) -> np.ndarray:
    """Grad-CAM of the reported score on the last stage: B×3×S×S images → B×H×W in −1 … 1.

    Σ_c (mean of ∂score/∂A_c over the map) · A_c, for the last map A of C channels, less its mean
    over the map, divided by its largest magnitude: to first order, how much a place raises (above
    0) or lowers the score in comparison with the photograph's average place. Grad-CAM is made for
    classes and shows what lies above zero; a rating has no such zero, so the mean stands in for it.
    Cell (i, j) stands for the share i/H … (i + 1)/H, j/W … (j + 1)/W of the input's sides.
    """
    from pytorch_grad_cam import GradCAM  # takes seconds to import

    layers = [model.norm]
    targets = [partial(reported_score, model)] * len(images)
    with scoring_mode(model), _frozen(model), torch.enable_grad():
        cam = GradCAM(model, layers, reshape_transform=lambda maps: maps.permute(0, 3, 1, 2))
        try:
            cam(images.detach().clone().requires_grad_(), targets)
            seen = cam.activations_and_grads
            values, gradients = seen.activations[0].numpy(), seen.gradients[0].numpy()
            signed = cam.get_cam_image(images, layers[0], targets, values, gradients)
        finally:
            cam.activations_and_grads.release()
    signed = signed - signed.mean(axis=(1, 2), keepdims=True)
    largest = np.abs(signed).max(axis=(1, 2), keepdims=True)
    return signed / np.where(largest > 0, largest, 1)


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Without gradients of the parameters: they would take time, and stay behind."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
