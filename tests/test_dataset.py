"""Transforms against torchvision, the order and augmentation of epochs, and the command line."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pictures import photo, write_jpegs
from torch.utils.data import DataLoader
from torchvision import transforms

import dataset
from dataset import ColorDataset, make_loader
from errors import UserError, run_cli
from labels import DataSpec, Labels, load_splits
from prepared import Transform
from preprocessing import normalise

NETWORK = SimpleNamespace(config=SimpleNamespace(name="delegate_base"))


@pytest.fixture
def labels(tmp_path: Path) -> Labels:
    """Ten different pictures of several sizes, scores 0..9 on a scale of 0..10."""
    rows = ["file,score"]
    for i in range(10):
        photo(i, width=40 + 3 * i, height=64 - 2 * i).save(tmp_path / f"{i}.png")
        rows.append(f"{i}.png,{i}")
    (tmp_path / "train.csv").write_text("\n".join(rows) + "\n")
    spec = DataSpec(
        "csv",
        tmp_path,
        train_csv=Path("train.csv"),
        score_columns=("score",),
        score_range=(0, 10),
    )
    return load_splits(spec)["train"]


def training(labels: Labels, **options: object) -> ColorDataset:
    return ColorDataset(labels, image_size=24, transform=Transform(32), train=True, **options)


def batches(data: ColorDataset, *, shuffle: bool = True, workers: int = 0) -> list[torch.Tensor]:
    loader = make_loader(data, batch_size=4, shuffle=shuffle, seed=0, workers=workers, device="cpu")
    return joined(loader)


def joined(loader: DataLoader) -> list[torch.Tensor]:
    """Images as the network takes them, targets and indices of all batches."""
    parts = [(images.to(NETWORK, "cpu"), *rest) for images, *rest in loader]
    return [torch.cat(column) for column in zip(*parts, strict=True)]


def test_test_transform_equals_torchvision(labels: Labels) -> None:
    reference = transforms.Compose(
        [
            transforms.Resize((24, 24)),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    data = ColorDataset(labels, image_size=24, transform=Transform(24), train=False)
    for i, (image, target, index) in enumerate(zip(*batches(data, shuffle=False), strict=True)):
        expected = reference(photo(i, width=40 + 3 * i, height=64 - 2 * i))
        torch.testing.assert_close(image, expected, rtol=0, atol=1e-6)
        torch.testing.assert_close(target, torch.tensor([i / 10]))
        assert (int(index), image.dtype, target.dtype) == (i, torch.float32, torch.float32)


def test_train_transform_is_a_crop_of_the_resized_and_maybe_flipped_image(labels: Labels) -> None:
    resized = np.asarray(photo(3, width=49, height=58).resize((32, 32), 2)).transpose(2, 0, 1)
    windows = {}
    for flipped in (False, True):
        source = torch.from_numpy(resized[..., ::-1].copy() if flipped else resized.copy())
        for top in range(9):
            for left in range(9):
                window = normalise(source[:, top : top + 24, left : left + 24])
                windows[window.numpy().tobytes()] = (flipped, top, left)
    data = training(labels)
    seen = set()
    for epoch in range(60):
        data.set_epoch(epoch)
        image = data.__getitems__([3])[0].to(NETWORK, "cpu")
        seen.add(windows[image.numpy().tobytes()])
    assert {flipped for flipped, _, _ in seen} == {False, True}
    assert {top for _, top, _ in seen} == {left for _, _, left in seen} == set(range(9))


def test_augmentation_and_order_depend_on_seed_and_epoch_alone(labels: Labels) -> None:
    data = training(labels, seed=5)
    data.set_epoch(2)
    images, targets, order = batches(data)
    data.set_epoch(0)
    other_images, _, other_order = batches(data)
    assert sorted(order.tolist()) == list(range(10))  # every image, the last batch included
    assert order.tolist() != other_order.tolist()
    torch.manual_seed(99)  # neither global state nor earlier epochs play a part
    resumed = training(labels, seed=5)
    resumed.set_epoch(2)
    for before, after in zip((images, targets, order), batches(resumed), strict=True):
        assert torch.equal(before, after)
    assert not torch.equal(images[order.argsort()], other_images[other_order.argsort()])
    elsewhere = training(labels, seed=6)
    elsewhere.set_epoch(2)
    assert not torch.equal(images[order.argsort()], batches(elsewhere)[0][order.argsort()])


def test_workers_and_cache_change_nothing(labels: Labels) -> None:
    plain, cached = training(labels, cache=False), training(labels)
    loader = make_loader(plain, batch_size=4, shuffle=True, seed=0, workers=2, device="cpu")
    for epoch in (0, 1):  # workers live on from epoch 0 to 1
        for data in (plain, cached):
            data.set_epoch(epoch)
        expected = batches(plain)
        for one, two, three in zip(expected, joined(loader), batches(cached), strict=True):
            assert torch.equal(one, two)
            assert torch.equal(one, three)
    assert len(cached.cache) == 10
    assert plain.cache is None


def test_cache_is_read_and_not_changed_by_augmentation(labels: Labels) -> None:
    data = training(labels)
    first = data.__getitems__([0])[0].to(NETWORK, "cpu")
    labels.paths[0].unlink()
    assert torch.equal(data.__getitems__([0])[0].to(NETWORK, "cpu"), first)


def test_large_sets_are_not_cached_unasked(labels: Labels, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "CACHE_LIMIT", 10 * 3 * 32 * 32)
    assert training(labels).cache is None
    assert training(labels, cache=True).cache == {}


def test_loading_draws_nothing_from_the_global_generator(labels: Labels) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    batches(training(labels))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("workers", [0, 1])
def test_broken_image_is_one_line_with_file_and_row(labels: Labels, workers: int) -> None:
    labels.paths[6].write_text("no image")
    with pytest.raises(UserError, match=r"train\.csv, row 8 \(6\.png\)") as caught:
        batches(training(labels), workers=workers)
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(str(labels.source))
    assert "--skip-broken" in text


def test_impossible_sizes(labels: Labels) -> None:
    with pytest.raises(UserError, match="side 20 do not fit a network's 24"):
        ColorDataset(labels, image_size=24, transform=Transform(20), train=True)
    with pytest.raises(UserError, match="side 32 do not fit a network's 24"):
        ColorDataset(labels, image_size=24, transform=Transform(32), train=False)
    with pytest.raises(UserError, match="batch size 0"):
        make_loader(training(labels), batch_size=0, shuffle=True, seed=0, workers=0, device="cpu")


# ---------------------------------------------------------------------------- command line


def command(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["dataset.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        run_cli(dataset.main)
    return caught.value.code


def test_data_flags_become_a_data_spec() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--dataset")
    dataset.add_data_arguments(parser)
    flags = (
        "--dataset csv --train-csv photos/a.csv --test-csv b.csv --image-root c --image-column d "
        "--score-columns e,f --score-range=-1,7.5 --threshold 3"
    )
    assert dataset.data_spec_from(parser.parse_args(flags.split())) == DataSpec(
        name="csv",
        data_root=Path("photos"),
        train_csv=Path("photos/a.csv"),
        test_csv=Path("b.csv"),
        image_root=Path("c"),
        image_column="d",
        score_columns=("e", "f"),
        score_range=(-1, 7.5),
        threshold=3,
    )
    spec = dataset.data_spec_from(parser.parse_args(["--dataset", "ava", "--test-list", "x"]))
    assert spec == DataSpec("ava", Path("data/ava"), test_list=Path("x"))
    spec = dataset.data_spec_from(parser.parse_args(["--dataset", "spaq", "--targets", "MOS"]))
    assert spec.targets == ("MOS",)


def test_verify_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.csv").write_text("file,score\nx.jpg,3\ny.jpg,4\n")
    write_jpegs(tmp_path, ["x.jpg", "y.jpg"])
    flags = ("--train-csv", tmp_path / "a.csv", "--score-columns", "score")
    assert command(monkeypatch, "verify", "csv", *flags, "--score-range", "1,7") == 0
    assert "all is well" in capsys.readouterr().out
    (tmp_path / "y.jpg").write_bytes(b"")
    assert command(monkeypatch, "verify", "csv", *flags, "--score-range", "1,7") == 1
    assert "row 3 (y.jpg)" in capsys.readouterr().out
    assert command(monkeypatch, "verify", "csv", *flags) == 2
    assert capsys.readouterr().err.startswith("error: csv needs --score-columns")


@pytest.mark.parametrize(
    "arguments",
    [
        "",
        "verify",
        "verify nothing",
        "verify csv --score-range 7",
        "verify csv --colour red",
        "verify spaq --workers 0",
        "leakage icaa17k=x",
        "leakage a b",
        "leakage foo=x csv=y",
    ],
)
def test_misuse_exits_with_2(monkeypatch: pytest.MonkeyPatch, arguments: str) -> None:
    assert command(monkeypatch, *arguments.split()) == 2
