"""Exported networks give PyTorch's scores, from the photograph's own pixels on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from conftest import ROOT
from PIL import Image
from scorers import lively_nano, picture

from errors import UserError
from export_model import export, pillow_resize
from models import ColorAesthetics

SIZES = [(90, 70), (300, 40), (128, 128), (31, 64), (500, 400)]


@pytest.fixture(scope="module")
def model() -> ColorAesthetics:
    return lively_nano()


@pytest.fixture(scope="module")
def onnx_file(model: ColorAesthetics, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "model.onnx"
    export(model, path)
    return path


def photographs(shared: Path) -> list[np.ndarray]:
    paths = sorted((shared / "data" / "oasis" / "images").glob("*.jpg"))[::80]
    images = [picture(seed, *size) for seed, size in enumerate(SIZES)]
    return [np.array(image) for image in images] + [np.array(Image.open(path)) for path in paths]


@pytest.mark.parametrize("size", [(500, 400), (33, 77), (224, 300), (900, 37), (1, 1), (224, 224)])
@pytest.mark.parametrize("side", [128, 224])
def test_resize_is_pillows_bit_for_bit(size: tuple[int, int], side: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    expected = Image.fromarray(pixels).resize((side, side), Image.Resampling.BILINEAR)
    resized = pillow_resize(torch.from_numpy(pixels).permute(2, 0, 1)[None], side)[0]
    np.testing.assert_array_equal(resized.permute(1, 2, 0), np.array(expected))


def test_onnx_scores_are_pytorchs(model: ColorAesthetics, onnx_file: Path, shared: Path) -> None:
    session = onnxruntime.InferenceSession(onnx_file, providers=["CPUExecutionProvider"])
    photos = photographs(shared)
    expected = np.array([list(scores.values()) for scores in model.score(photos)])
    scores = [session.run(["scores"], {"photos": photo[None]})[0][0] for photo in photos]
    assert np.ptp(expected, axis=0).min() > 0.1
    np.testing.assert_allclose(scores, expected, atol=1e-4)
    batch = np.stack([photos[-1], photos[-2], photos[-1]])  # the batch is free, neighbours too
    together = session.run(["scores"], {"photos": batch})[0]
    np.testing.assert_allclose(together, expected[[-1, -2, -1]], atol=1e-4)


def test_onnx_metadata_tells_the_preprocessing(model: ColorAesthetics, onnx_file: Path) -> None:
    session = onnxruntime.InferenceSession(onnx_file, providers=["CPUExecutionProvider"])
    facts = session.get_modelmeta().custom_metadata_map
    assert json.loads(facts["targets"]) == ["MOS", "color"]
    assert json.loads(facts["scale"]) == [1.0, 9.0]
    assert json.loads(facts["resize"])["size"] == [128, 128]
    assert json.loads(facts["mean"])[0] == 0.485
    assert len(json.loads(facts["label_quantiles"])["color"]) == 101


def test_the_example_scores_a_file(model: ColorAesthetics, onnx_file: Path, tmp_path: Path) -> None:
    picture(4).save(tmp_path / "a.png")
    command = [sys.executable, ROOT / "examples" / "score_onnx.py", onnx_file, tmp_path / "a.png"]
    answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    expected = model.score(tmp_path / "a.png")
    assert answer[1::2] == ["MOS", "color"]
    assert list(map(float, answer[2::2])) == pytest.approx(list(expected.values()), abs=2e-4)


def test_torch_export_comes_back_and_overwrites_only_if_told(
    model: ColorAesthetics, tmp_path: Path, shared: Path
) -> None:
    path = tmp_path / "model.pt2"
    export(model, path)
    facts = {"scale": ""}
    scorer = torch.export.load(path, extra_files=facts).module()
    assert json.loads(facts["scale"]) == [1.0, 9.0]
    for photo in photographs(shared)[::3]:
        with torch.no_grad():
            scores = scorer(torch.from_numpy(photo)[None])[0].tolist()
        assert scores == pytest.approx(list(model.score(photo).values()), abs=1e-4)
    with pytest.raises(UserError, match="exists: --overwrite"):
        export(model, path)
    with pytest.raises(UserError, match="suffix must be"):
        export(model, tmp_path / "model.pb")
    with pytest.raises(UserError, match="there is no folder"):
        export(model, tmp_path / "absent" / "model.onnx")
