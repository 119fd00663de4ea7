"""Networks for the tests of explanations, reports, sweeps and the page in the browser."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import ColorAesthetics, build_model
from models.color_spaces import ColorHead
from models.layers import LayerExplanation
from scoring import Row

QUANTILES = {name: [0.1 * i for i in range(101)] for name in ("MOS", "color")}


@functools.cache
def tiny_model() -> ColorAesthetics:
    """delegate_nano as it comes from initialisation, with a spread of scores."""
    torch.manual_seed(3)
    model = build_model("delegate_nano", recipe="ours", targets=("MOS", "color")).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # away from zero biases and near-zero weights
            parameter += 0.05 * torch.randn_like(parameter)
        for head in model.head.scores:
            head.weight.copy_(3 * torch.randn_like(head.weight))
    model.extra = {"unit_range": [0.0, 10.0], "label_quantiles": QUANTILES}
    return model


def row(model: ColorAesthetics, path: str, photo: object) -> Row:
    """The result of a photograph, as predict.py has it."""
    scores = model.score(photo)
    name = model.label_scale.names[-1]
    percentile = model.label_scale.percentile(name, scores[name])
    size = {"width": 10, "height": 10}
    return {"path": path, **scores, "percentile": percentile, **size, "note": "", "error": ""}


class PatchModel(ColorAesthetics):
    """Sees each 16×16 cell's mean color and nothing else, so what it must say can be worked out.

    Features are (red, green, blue), 0 … 1; so are the three color points, each in two color spaces
    that are centred on 0.25 and 0.75. Only red's second space raises the score. Points: those of
    `places` (y, x), each of them open but the first, in one group.
    """

    CELL = 16

    def __init__(self, places: Tensor) -> None:
        sizes = {"num_color_points": 3, "color_spaces": 2}
        config = build_model("delegate_nano", recipe="ours", targets=("red",), **sizes).config
        super().__init__(config)
        self.norm = nn.Identity()
        self.head = ColorHead(3, 1, 3, 2, slope=1.0, unit_range=False)
        self.places = places  # N×2
        with torch.no_grad():
            self.head.color_points.weight.copy_(torch.eye(3))
            self.head.color_points.bias.zero_()
            self.head.scores[0].weight.copy_(torch.tensor([[0.01, 1.0, 0.01, 0.01, 0.01, 0.01]]))
            self.head.scores[0].bias.zero_()
        self.eval()

    def forward_maps(self, images: Tensor, layers: list[LayerExplanation] | None) -> Tensor:
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        colors = images * std.view(3, 1, 1) + mean.view(3, 1, 1)
        maps = F.avg_pool2d(colors, self.CELL).permute(0, 2, 3, 1)  # B×8×8×3
        if layers is not None:
            side = maps.shape[1]
            gate = torch.ones(side, side)
            gate.view(-1)[0] = 0
            points = self.places.view(1, 1, side, side, 2)
            attention = torch.full((1, 1, side**2, side**2), 1 / side**2)
            layers.append(
                LayerExplanation(
                    map_size=(side, side),
                    interest_points=points[0, 0],
                    offsets=torch.zeros_like(points),
                    gate=gate,
                    points=points * gate[..., None],
                    attention=attention,
                    stage=3,
                    block=1,
                )
            )
        return self.norm(maps)
