"""Networks as ONNX and torch.export files that take photographs and give scores.

    python predict.py --weights runs/x --export model.onnx     # or model.pt2
    python examples/score_onnx.py model.onnx photo.jpg         # needs onnxruntime, numpy, pillow

Input `photos`: uint8 B x H x W x 3, RGB as decoded, any H and W; one size for all of a batch.
Output `scores`: float32 B x R on the label's own scale. Resize, normalisation, network and scale
are all inside; the metadata says them too, for a program that brings its own.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor, nn

from errors import UserError
from models import ColorAesthetics
from models.scoring_api import scoring_mode
from preprocessing import IMAGENET_MEAN, IMAGENET_STD, PADDING, normalise
from run_folder import replacing

PRECISION_BITS = 22  # of Pillow's weights for 8-bit images: 32 - 8 - 2


class PhotoScorer(nn.Module):
    """A network with its preprocessing and its label scale around it."""

    def __init__(self, model: ColorAesthetics) -> None:
        super().__init__()
        self.model, self.scale, self.config = model, model.label_scale, model.config

    def forward(self, photos: Tensor) -> Tensor:
        """uint8 B x H x W x 3 -> float32 B x R."""
        size, aspect = self.config.image_size, self.config.aspect
        pixels = pillow_resize(photos.permute(0, 3, 1, 2), size, aspect)
        return self.scale.from_unit(self.model(normalise(pixels)))


def pillow_resize(photos: Tensor, size: int, aspect: str = "stretch") -> Tensor:
    """B x 3 x H x W of 0 ... 255 -> float32 B x 3 x size x size: what `preprocessing.resize` gives
    by Pillow's antialiased bilinear filter, bit for bit, in operations that can be exported.

    As in its Resample.c: first along rows, then along columns, each time with weights in fixed
    point and a result rounded to 8 bits. (Pillow itself goes the other way round for strips more
    than 100 times as high as wide, where a grey level may differ. The `antialias` of torch and ONNX
    differs by one grey level in 0.3 % of the pixels, which moves scores by up to 0.02.)
    """
    lengths = [_number(length, photos.device) for length in photos.shape[2:]]  # height, width
    sides = [_number(size, photos.device)] * 2
    if aspect == "pad":
        longer = torch.maximum(*lengths)
        sides = [torch.floor((2 * n * size + longer) / (2 * longer)).clamp(min=1) for n in lengths]
    across, is_column = _weights(photos.shape[3], size, sides[1])
    down, is_row = _weights(photos.shape[2], size, sides[0])
    rows = photos.to(torch.float64) @ across.T  # B x 3 x H x size
    pixels = _to_8_bits(down @ _to_8_bits(rows)).float()  # B x 3 x size x size
    if aspect == "pad":
        padding = torch.tensor(PADDING, dtype=torch.float32, device=photos.device).view(3, 1, 1)
        pixels = torch.where(is_row[:, None] & is_column, pixels, padding)
    return pixels


def _number(value: int, device: torch.device) -> Tensor:
    """`value`, which may be a free size of the graph, as a float64 scalar."""
    return torch.full((), value, dtype=torch.float64, device=device)


def _weights(length: int, size: int, side: Tensor) -> tuple[Tensor, Tensor]:
    """Of a row or column of `length` old pixels that becomes `side` pixels in the middle of `size`:
    size x length weights of the old pixels in the new ones (float64 that holds integers; without
    meaning on the padding), and size booleans: which of the new ones are not padding.
    """
    device = side.device
    step = _number(length, device) / side
    new = torch.arange(size, dtype=torch.float64, device=device)
    new = new - torch.floor((size - side) / 2)
    is_inside = (new >= 0) & (new < side)
    centers = (new.clamp(min=0).minimum(side - 1) + 0.5) * step
    old = torch.arange(length, dtype=torch.float64, device=device) + 0.5
    support = step.clamp(min=1.0)  # the triangle's half width, never below an old pixel
    weights = torch.relu(1 - (old[None, :] - centers[:, None]).abs() / support)
    weights = weights / weights.sum(dim=1, keepdim=True)
    return torch.floor(weights * 2**PRECISION_BITS + 0.5), is_inside


def _to_8_bits(sums: Tensor) -> Tensor:
    """Fixed point -> whole numbers 0 ... 255, halves up; exact, as float64 holds 53 bits."""
    return torch.floor(sums / 2**PRECISION_BITS + 0.5).clamp(0, 255)


def metadata(model: ColorAesthetics) -> dict[str, str]:
    """What a program must know to feed the file and to read its answer."""
    scale, size = model.label_scale, model.config.image_size
    facts = {
        "input": "uint8 B x H x W x 3, RGB, upright; transparent pixels over white",
        "resize": {
            "size": [size, size],
            "filter": "bilinear, antialiased, as Pillow's BILINEAR",
            "aspect": model.config.aspect,
            "padding": PADDING,
        },
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
        "targets": scale.names,
        "reported_target": scale.names[-1],
        "scale": [scale.low, scale.high],
        "label_quantiles": dict(scale.quantiles),
        "model": model.config.to_dict(),
    }
    return {key: v if isinstance(v, str) else json.dumps(v) for key, v in facts.items()}


def export(model: ColorAesthetics, path: Path, *, overwrite: bool = False) -> None:
    """Write `model` as .onnx or .pt2, by the suffix of `path`. Raises `UserError`."""
    if path.suffix not in (".onnx", ".pt2"):
        raise UserError(f"--export {path}: the suffix must be .onnx or .pt2 (torch.export)")
    if not path.parent.is_dir():
        raise UserError(f"--export {path}: there is no folder {path.parent}")
    if path.exists() and not overwrite:
        raise UserError(f"{path} exists: --overwrite replaces it")
    model = model.cpu()
    with scoring_mode(model), torch.no_grad(), replacing(path) as temporary:
        program = trace(model)
        if path.suffix == ".pt2":
            torch.export.save(program, temporary, extra_files=metadata(model))
        else:
            _save_onnx(program, temporary, metadata(model))
    print(f"{path}: {path.stat().st_size / 2**20:.1f} MB")


def trace(model: ColorAesthetics) -> torch.export.ExportedProgram:
    """`PhotoScorer` as a graph; batch, height and width stay free."""
    free = dict.fromkeys(range(3), torch.export.Dim.DYNAMIC)
    example = torch.zeros(2, 160, 192, 3, dtype=torch.uint8)
    scorer = PhotoScorer(model).eval()
    return torch.export.export(scorer, (example,), dynamic_shapes={"photos": free})


def _save_onnx(program: torch.export.ExportedProgram, path: Path, facts: dict[str, str]) -> None:
    onnx = torch.onnx.export(
        program, input_names=["photos"], output_names=["scores"], opset_version=18, verbose=False
    )
    onnx.model.metadata_props.update(facts)
    onnx.save(path, external_data=False)
