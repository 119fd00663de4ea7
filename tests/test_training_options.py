"""Options beyond the paper: confidence weights, layer-wise decay, ranking losses, evaluation."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_train import read_csv
from tiny import write_tiny_dataset

import train_nni
from config_layers import resolve_config
from errors import UserError
from labels import DataSpec, load_splits
from loops import confidence_weights
from losses import Objective
from models import build_model, load_model, parameter_groups
from models.depths import backbone_stages, layer_depths
from preprocessing import as_rgb, normalise, resize
from setting import Setting, build_splits, evaluation_batch
from train_nni import main


def rewrite(path: Path, change: Callable[[int, dict[str, str]], None]) -> None:
    """Let `change` edit each row, by number, of a table."""
    rows = read_csv(path)
    for number, row in enumerate(rows):
        change(number, row)
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)


@pytest.fixture
def flags(tmp_path: Path) -> list[str]:
    """Flags that train one epoch; the table of train has the column `raters`: 10, 11, ..."""
    flags = write_tiny_dataset(tmp_path / "data", train=8, test=3)
    rewrite(tmp_path / "data/train.csv", lambda number, row: row.update(raters=10 + number))
    return [*flags, "--epochs", "1", "--drop-path", "0", "--no-baselines"]


CONFIDENCE = ("--confidence-column", "raters", "--confidence-power")


# ----------------------------------------------------------------------------- confidence


@pytest.mark.parametrize("power", [1.0, -2.0])
def test_weights_follow_their_images_into_the_loss(
    power: float, flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of each image in each batch: (raters / mean over train) ** power, whatever the order."""
    seen: dict[float, float] = {}

    class Spy(Objective):
        def __call__(self, prediction, target, weight=None):  # noqa: ANN001, ANN204
            seen.update(zip(target[:, 1].tolist(), weight.tolist(), strict=True))
            return super().__call__(prediction, target, weight)

    monkeypatch.setattr(train_nni, "Objective", Spy)
    assert main([*flags, *CONFIDENCE, str(power), "--output", str(tmp_path / "run")]) == 0
    raters = {row["file"]: float(row["raters"]) for row in read_csv(tmp_path / "data/train.csv")}
    train = build_splits(resolve_config(flags, {}))["train"]
    assert len(seen) == len(train) == 6  # the validation images have no say in the mean
    weights = np.array([raters[name] for name in train.ids]) ** power
    expected = dict(zip(train.unit_scores[:, 1].tolist(), weights / weights.mean(), strict=True))
    assert seen == pytest.approx(expected)


def test_equal_confidences_change_nothing(flags: list[str], tmp_path: Path) -> None:
    rewrite(tmp_path / "data/train.csv", lambda _, row: row.update(raters="0.5"))
    tables = []
    for name, more in (("plain", ()), ("weighted", (*CONFIDENCE, "2"))):
        assert main([*flags, *more, "--output", str(tmp_path / name)]) == 0
        tables.append(read_csv(tmp_path / name / "predictions.csv"))
    assert tables[0] == tables[1]


def test_icaa17k_has_its_probability(tmp_path: Path) -> None:
    root = tmp_path / "icaa"
    (root / "red").mkdir(parents=True)
    for split, count in (("train", 4), ("test", 2)):
        lines = ["ID,color,MOS,probability"]
        for number in range(count):
            (root / f"red/{split}{number}.jpg").touch()
            lines.append(f"red/{split}{number}.jpg,{5 + number},6,{0.5 + number / 10}")
        (root / f"1{split}.csv").write_text("\n".join(lines))
    config = resolve_config(["--dataset", "icaa17k", "--confidence-power", "1"], {})
    spec = DataSpec("icaa17k", root, confidence_column=config.confidence)
    splits = load_splits(spec)
    assert splits["train"].confidence.tolist() == [0.5, 0.6, 0.7, 0.8]
    assert splits["train"].subset([2, 0]).confidence.tolist() == [0.7, 0.5]
    assert splits["test"].confidence is None
    setting = Setting(config, torch.device("cpu"), splits)
    assert confidence_weights(setting).tolist() == pytest.approx(
        [0.5 / 0.65, 0.6 / 0.65, 0.7 / 0.65, 0.8 / 0.65]
    )
    plain = load_splits(replace(spec, confidence_column=None))
    assert plain["train"].confidence is None
    assert confidence_weights(replace(setting, splits=plain)) is None


@pytest.mark.parametrize("value", ["0", "-3", "", "many", "nan", "inf"])
def test_a_bad_confidence_is_named(value: str, flags: list[str], tmp_path: Path) -> None:
    def spoil(number: int, row: dict[str, str]) -> None:
        if number == 3:
            row["raters"] = value

    path = tmp_path / "data/train.csv"
    rewrite(path, spoil)
    with pytest.raises(UserError, match=r"row 5: raters is .*not a number above 0") as caught:
        build_splits(resolve_config([*flags, *CONFIDENCE, "1"], {}))
    assert str(path) in str(caught.value)
    assert repr(value) in str(caught.value)


def test_confidence_is_refused_where_there_is_none(flags: list[str]) -> None:
    refused = {
        "needs --confidence-column": [*flags, "--confidence-power", "1"],
        "give it with both": [*flags, "--confidence-column", "raters"],
        "labels of spaq have no": ["--dataset", "spaq", "--confidence-power", "1"],
    }
    for message, argv in refused.items():
        with pytest.raises(UserError, match=message):
            resolve_config(argv, {})
    argv = [*flags, "--confidence-power", "1", "--confidence-column", "doubt"]
    with pytest.raises(UserError, match=r"has no column 'doubt'.*raters"):
        build_splits(resolve_config(argv, {}))


# ----------------------------------------------------------------------------- layer-wise decay


def test_depths_of_nano_by_hand() -> None:
    """Two layers in each of four stages: depth 1 is the last of them, 8 the first, 9 the stem."""
    depths = layer_depths(build_model("delegate_nano", "icaa17k"))
    expected = {
        "head.color_points.weight": 0,
        "norm.bias": 0,
        "stages.3.blocks.1.attention.interest_net.weight": 1,
        "stages.3.blocks.0.mlp.expand.weight": 2,
        "downsamples.2.projection.weight": 3,
        "stages.2.blocks.1.attention_norm.weight": 3,
        "stages.1.blocks.0.mlp.project.bias": 6,
        "stages.0.blocks.1.mlp.project.bias": 7,
        "stages.0.blocks.0.mlp.project.bias": 8,
        "patch_embed.projection.weight": 9,
    }
    assert {name: depths[name] for name in expected} == expected
    assert set(depths) == {name for name, _ in build_model("delegate_nano").named_parameters()}


def test_depths_of_a_cnn_by_hand() -> None:
    """ResNet's layer1 .. layer4 have strides 4 .. 32; a block's first convolution sees the map of
    the layer before. Behind them come four delegate layers."""
    model = build_model("delegate_cnn", backbone="resnet18", backbone_weights="none")
    model.train()
    modes = [module.training for module in model.modules()]
    depths = layer_depths(model)
    assert [module.training for module in model.modules()] == modes
    expected = {
        "norm.weight": 0,
        "stage4.blocks.1.mlp.expand.weight": 1,
        "stage4.blocks.0.mlp.expand.weight": 2,
        "stage3.blocks.1.mlp.expand.weight": 3,
        "downsample.projection.weight": 3,
        "stage3.blocks.0.mlp.expand.weight": 4,
        "enter3.projection.weight": 5,
        "enter4.projection.weight": 5,
        "backbone.features.layer4.0.conv1.weight": 5,
        "backbone.features.layer4.1.conv2.weight": 5,
        "backbone.features.layer3.1.conv2.weight": 6,
        "backbone.features.layer2.0.downsample.0.weight": 7,
        "backbone.features.layer1.0.conv1.weight": 8,
        "backbone.features.conv1.weight": 8,
    }
    assert {name: depths[name] for name in expected} == expected


def test_what_gives_no_map_belongs_to_the_stage_before_it() -> None:
    """ConvNeXt's layer scale is a bare parameter; its stages are features 1, 3, 5, 7."""
    model = build_model("delegate_cnn", backbone="convnext_tiny", backbone_weights="none")
    stages = backbone_stages(model.backbone)
    for stage, number in enumerate((1, 3, 5, 7)):
        assert stages[f"features.features.{number}.0.layer_scale"] == stage
        assert stages[f"features.features.{number}.1.block.0.weight"] == stage


def test_learning_rates_decay_by_depth() -> None:
    model = build_model("delegate_nano", "icaa17k")
    options = {"lr": 1e-3, "weight_decay": 0.1, "new_layer_lr_factor": 10}
    rates = {
        id(parameter): group["lr"]
        for group in parameter_groups(model, **options, layer_decay=0.5)
        for parameter in group["params"]
    }
    assert len(rates) == sum(parameter.requires_grad for parameter in model.parameters())
    named = dict(model.named_parameters())
    expected = {
        "patch_embed.projection.weight": 1e-3 * 0.5**9,
        "stages.2.blocks.1.mlp.expand.weight": 1e-3 * 0.5**3,
        "stages.2.blocks.1.attention.interest_net.weight": 1e-2 * 0.5**3,
        "head.color_points.weight": 1e-2,
    }
    assert {name: rates[id(named[name])] for name in expected} == pytest.approx(expected)
    assert len(parameter_groups(model, **options, layer_decay=1.0)) == 4


# ----------------------------------------------------------------------------- evaluation


def test_mirrored_evaluation_is_the_mean_of_both(flags: list[str], tmp_path: Path) -> None:
    assert main([*flags, "--flip-tta", "--output", str(tmp_path / "run")]) == 0
    model = load_model(tmp_path / "run/best").eval()
    rows = read_csv(tmp_path / "run/predictions.csv")
    pixels = [resize(as_rgb(tmp_path / "data" / row["image"]), 128) for row in rows]
    images = normalise(torch.stack(pixels))
    with torch.inference_mode():
        both = torch.stack([model(images), model(images.flip(3))])[..., 1]
    assert (both[0] - both[1]).abs().max() > 1e-5
    expected = 1 + 6 * both.mean(dim=0)
    assert [float(row["prediction"]) for row in rows] == pytest.approx(expected.tolist(), abs=1e-5)


def test_larger_evaluation_batches_score_the_same(flags: list[str], tmp_path: Path) -> None:
    predictions = []
    for size in ("4", "3"):
        output = tmp_path / size
        assert main([*flags, "--eval-batch-size", size, "--output", str(output)]) == 0
        rows = read_csv(output / "predictions.csv")
        predictions.append([float(row["prediction"]) for row in rows])
    assert predictions[0] == pytest.approx(predictions[1], abs=1e-5)


def test_batches_of_evaluation(flags: list[str]) -> None:
    config = resolve_config(flags, {})  # batch size 4
    networks = {
        pooling: build_model("delegate_nano", point_pooling=pooling).config
        for pooling in ("image", "batch")
    }
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert evaluation_batch(config, networks["image"], cpu) == 4
    assert evaluation_batch(config, networks["image"], gpu) == 16
    assert evaluation_batch(config, networks["batch"], gpu) == 4  # scores depend on the batch
    chosen = replace(config, eval_batch_size=7)
    assert evaluation_batch(chosen, networks["batch"], gpu) == 7


# ----------------------------------------------------------------------------- ranking losses


def test_ranking_losses_train_and_are_refused_for_ava(flags: list[str], tmp_path: Path) -> None:
    losses = {}
    for name, more in {
        "plain": (),
        "plcc": ("--plcc-weight", "1"),
        "rank": ("--rank-weight", "1"),
    }.items():
        assert main([*flags, *more, "--output", str(tmp_path / name)]) == 0
        losses[name] = float(read_csv(tmp_path / name / "epochs.csv")[0]["train_loss"])
    assert losses["plcc"] > losses["plain"] + 0.1
    assert losses["rank"] > losses["plain"] + 0.1
    with pytest.raises(UserError, match="ava's network gives rating distributions"):
        resolve_config(["--dataset", "ava", "--rank-weight", "1"], {})
