"""Prepared images: equal to decoded ones, out of date, interrupted, raced for, damaged."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
import signal
import sys
import time
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import photo
from PIL import Image
from tiny import write_tiny_dataset

import dataset
from config_layers import resolve_config
from dataset import ColorDataset, data_spec_from, make_loader
from errors import UserError, run_cli
from labels import DataSpec, Labels, load_splits
from models import build_model
from preparation import Outcome, needed_transforms, prepare
from prepared import DamagedError, PreparedImages, Transform, read_shard, shard_number
from setting import Setting, build_loader, build_splits

SMALL, LARGE = Transform(24), Transform(28)
NEEDED = needed_transforms(24, 28 / 24, aspect="stretch", draft=False)
FORK = multiprocessing.get_context("fork")


def write_photos(root: Path, count: int, test: int = 0) -> dict[str, Labels]:
    """Labels of JPEGs and PNGs of several sizes in two folders, the last `test` for testing."""
    rows = []
    for i in range(count):
        name = f"{'ab'[i % 2]}/{i}.{'jpg' if i % 3 else 'png'}"
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        photo(i, width=40 + i % 17, height=64 - i % 13).save(root / name)
        rows.append(f"{name},{i % 10}")
    tables = {"train": rows[: count - test], "test": rows[count - test :]}
    for split, lines in tables.items():
        (root / f"{split}.csv").write_text("\n".join(["file,score", *lines]) + "\n")
    return read_labels(root, test=test > 0)


def read_labels(root: Path, *, test: bool = False) -> dict[str, Labels]:
    return load_splits(
        DataSpec(
            "csv",
            root,
            train_csv=root / "train.csv",
            test_csv=root / "test.csv" if test else None,
            score_columns=("score",),
            score_range=(0, 10),
        )
    )


def prepared_in(root: Path, splits: dict[str, Labels], workers: int = 2) -> Outcome:
    folder = root / "prepared"
    return prepare(splits, NEEDED, folder=folder, root=root, workers=workers)


def files(root: Path) -> dict[str, bytes]:
    """Every file that lies among the prepared images, but for the lock."""
    found = (path for path in (root / "prepared").rglob("*") if path.is_file())
    folder = root / "prepared"
    return {str(p.relative_to(folder)): p.read_bytes() for p in found if p.name != ".lock"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "set"


def test_pixels_are_those_of_pillow(root: Path) -> None:
    splits = write_photos(root, 30, test=6)
    outcome = prepared_in(root, splits)
    assert (outcome.decoded, outcome.sound, outcome.broken) == (24 * 2 + 6, 0, [])
    assert outcome.bytes == sum(map(len, files(root).values()))
    for side, split in ((24, "train"), (28, "train"), (24, "test")):
        paths = splits[split].paths
        images = PreparedImages(root / "prepared", Transform(side), paths, root)
        assert images.absent == []
        order = list(range(len(paths)))[::-1]
        expected = [
            np.asarray(Image.open(paths[i]).resize((side, side), Image.Resampling.BILINEAR))
            for i in order
        ]
        pixels = images.gather(order)
        np.testing.assert_array_equal(pixels.permute(0, 2, 3, 1).numpy(), np.stack(expected))
    test_images = PreparedImages(root / "prepared", LARGE, splits["test"].paths, root)
    assert test_images.absent == list(range(6))  # only train is cropped from the larger side


def test_training_batches_are_those_of_the_originals(root: Path) -> None:
    labels = write_photos(root, 30)["train"]
    prepared_in(root, {"train": labels})
    images = PreparedImages(root / "prepared", LARGE, labels.paths, root)
    results = []
    for source, workers in ((None, 0), (images, 0), (images, 2)):
        data = ColorDataset(
            labels, image_size=24, transform=LARGE, train=True, prepared=source, cache=False
        )
        data.set_epoch(3)
        loader = make_loader(
            data, batch_size=8, shuffle=True, seed=1, workers=workers, device="cpu"
        )
        parts = [(batch.pixels, batch.draws, *rest) for batch, *rest in loader]
        results.append([torch.cat(column) for column in zip(*parts, strict=True)])
    for others in results[1:]:
        for one, other in zip(results[0], others, strict=True):
            assert torch.equal(one, other)


def test_padded_images_are_kept_apart(root: Path) -> None:
    labels = write_photos(root, 4)
    padded = Transform(24, aspect="pad")
    prepare(labels, {"train": {SMALL, padded}}, folder=root / "prepared", root=root)
    paths = labels["train"].paths
    stretched, inside = (
        PreparedImages(root / "prepared", transform, paths, root).gather([0])[0]
        for transform in (SMALL, padded)
    )
    width = round(24 * 40 / 64)  # of the first photograph, 40 x 64, in a square of 24
    left = (24 - width) // 2
    resized = Image.open(paths[0]).resize((width, 24), Image.Resampling.BILINEAR)
    expected = np.asarray(resized).transpose(2, 0, 1)
    np.testing.assert_array_equal(inside[:, :, left : left + width].numpy(), expected)
    assert not torch.equal(stretched, inside)


def test_files_depend_on_no_order(root: Path, tmp_path: Path) -> None:
    labels = write_photos(root, 40)["train"]
    prepared_in(root, {"train": labels}, workers=1)
    expected = files(root)
    assert len(expected) > 40
    shutil.rmtree(root / "prepared")
    backwards = labels.subset(range(40)[::-1])
    prepared_in(root, {"train": backwards.subset(range(13))}, workers=4)  # a part of them first
    prepared_in(root, {"train": backwards}, workers=4)
    assert files(root) == expected
    moved = root.rename(tmp_path / "elsewhere")  # the images go with them, and so do the names
    outcome = prepared_in(moved, {"train": read_labels(moved)["train"]})
    assert (outcome.sound, outcome.decoded) == (80, 0)


def test_changed_files_are_done_again(root: Path) -> None:
    labels = write_photos(root, 30)["train"]
    prepared_in(root, {"train": labels})
    reading = PreparedImages(root / "prepared", SMALL, labels.paths, root)
    before = reading.gather([3, 4])

    touched, other, gone = labels.paths[3], labels.paths[4], labels.paths[5]
    os.utime(touched, ns=(1, touched.stat().st_mtime_ns + 1))
    state = other.stat()
    photo(99, width=70, height=70).save(other)
    os.utime(other, ns=(state.st_atime_ns, state.st_mtime_ns))  # the size alone tells
    gone.unlink()

    assert PreparedImages(root / "prepared", SMALL, labels.paths, root).absent == [3, 4, 5]
    left = labels.subset([i for i in range(30) if i != 5])
    outcome = prepared_in(root, {"train": left})
    assert (outcome.decoded, outcome.outdated, outcome.sound) == (2 * 2, 3 * 2, 27 * 2)
    again = PreparedImages(root / "prepared", SMALL, left.paths, root)
    assert again.absent == []
    assert torch.equal(again.gather([3])[0], before[0])
    assert torch.equal(again.gather([4])[0], SMALL.load(other))
    assert not torch.equal(again.gather([4])[0], before[1])
    assert torch.equal(reading.gather([3, 4]), before)  # who reads already is not disturbed


def test_kill_at_any_moment_and_go_on(root: Path) -> None:
    splits = write_photos(root, 120)
    prepared_in(root, splits)
    expected = files(root)
    shutil.rmtree(root / "prepared")
    for shards in (1, 20, 40, 60):
        child = FORK.Process(target=prepared_in, args=(root, splits, 1))
        child.start()
        deadline = time.monotonic() + 30
        while len(list(root.glob("prepared/*/??.safetensors"))) < shards:
            assert time.monotonic() < deadline
            assert child.is_alive()
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        assert child.exitcode == -signal.SIGKILL
        whole = {name: data for name, data in files(root).items() if ".tmp" not in name}
        assert shards <= len(whole) < len(expected)
        assert whole.items() <= expected.items()
    outcome = prepared_in(root, splits)
    assert outcome.sound >= 60
    assert outcome.damaged == []
    assert files(root) == expected


def _report(root: Path, splits: dict[str, Labels], answers: multiprocessing.Queue) -> None:
    answers.put(prepared_in(root, splits, workers=1).decoded)


def test_two_processes_at_once(root: Path) -> None:
    splits = write_photos(root, 60)
    prepared_in(root, splits)
    expected = files(root)
    shutil.rmtree(root / "prepared")
    answers = FORK.Queue()
    children = [FORK.Process(target=_report, args=(root, splits, answers)) for _ in range(2)]
    for child in children:
        child.start()
    decoded = sorted(answers.get(timeout=30) for _ in children)
    for child in children:
        child.join()
    assert decoded == [0, 120]  # each image once
    assert files(root) == expected


def test_any_flipped_byte_is_found_and_mended(root: Path) -> None:
    labels = write_photos(root, 8)["train"]
    prepared_in(root, {"train": labels})
    name = PreparedImages(root / "prepared", SMALL, labels.paths, root).names[2]
    path = root / "prepared" / SMALL.folder / f"{shard_number(name):02x}.safetensors"
    good = path.read_bytes()
    length = 8 + int.from_bytes(good[:8], "little")  # of the header, which is JSON
    columns = len(good) - read_shard(path).pixels.numel()
    places = [*range(0, length, 5), *range(length, columns, 7), *range(columns, len(good), 997)]
    for place in places:
        path.write_bytes(good[:place] + bytes([good[place] ^ 0x15]) + good[place + 1 :])
        outcome = prepared_in(root, {"train": labels}, workers=1)
        assert outcome.damaged == [path] or outcome.outdated > 0, place
        assert path.read_bytes() == good, place


def test_reader_names_the_damaged_shard(root: Path) -> None:
    labels = write_photos(root, 8)["train"]
    prepared_in(root, {"train": labels})
    images = PreparedImages(root / "prepared", SMALL, labels.paths, root)
    path = root / "prepared" / SMALL.folder / f"{shard_number(images.names[2]):02x}.safetensors"
    good = path.read_bytes()
    path.write_bytes(good[:-9] + bytes([good[-9] ^ 1]) + good[-8:])
    images = PreparedImages(root / "prepared", SMALL, labels.paths, root)
    assert images.absent == []
    with pytest.raises(DamagedError, match=f"{path.name}: damaged.*dataset.py prepare"):
        images.gather(range(8))
    for torn in (good[:-1], good[: len(good) // 2], good[:5], b""):
        path.write_bytes(torn)
        with pytest.raises(DamagedError, match=f"{path.name}: damaged"):
            PreparedImages(root / "prepared", SMALL, labels.paths, root)
        assert prepared_in(root, {"train": labels}).damaged == [path]
        assert path.read_bytes() == good


def test_another_process_opens_the_files_itself(root: Path) -> None:
    labels = write_photos(root, 8)["train"]
    prepared_in(root, {"train": labels})
    images = PreparedImages(root / "prepared", SMALL, labels.paths, root)
    sent = pickle.dumps(images)
    assert len(sent) < 3 * 24 * 24 * 8  # no pixels
    assert torch.equal(pickle.loads(sent).gather(range(8)), images.gather(range(8)))
    # Shards that were made anew in the meantime may hold other images in the same rows.
    for path in (root / "prepared" / SMALL.folder).iterdir():
        path.unlink()
    with pytest.raises(DamagedError):
        pickle.loads(sent).gather([0])


# ---------------------------------------------------------------------------- commands


def command(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["dataset.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        run_cli(dataset.main)
    return caught.value.code


def test_broken_images_are_named_and_the_others_prepared(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = write_photos(root, 12)["train"]
    labels.paths[3].write_bytes(labels.paths[3].read_bytes()[:300])
    labels.paths[7].write_bytes(b"")
    flags = ["csv", "--train-csv", root / "train.csv", "--score-columns", "score"]
    flags += ["--score-range", "0,10", "--size", "24"]
    assert command(monkeypatch, "prepare", *flags) == 2
    output = capsys.readouterr()
    assert "train.csv, row 5 (b/3.png)" in output.out
    assert "train.csv, row 9 (b/7.jpg)" in output.out
    assert "error: 2 images cannot be prepared" in output.err
    labels.paths[7].unlink()
    assert command(monkeypatch, "prepare", *flags, "--skip-broken") == 0
    assert "20 were there, 0 decoded" in capsys.readouterr().out  # 24² and, 256/224 of it, 27²
    images = PreparedImages(root / "prepared", Transform(27), labels.paths, root)
    assert images.absent == [3, 7]
    assert command(monkeypatch, "prepare", *flags) == 2
    assert "no image file" in capsys.readouterr().err
    assert command(monkeypatch, "prepare", *flags, "--resize-ratio", "0.5") == 2
    (root / "file").write_text("")
    assert (
        command(monkeypatch, "prepare", *flags, "--skip-broken", "--prepared", root / "file") == 2
    )
    assert "cannot be written" in capsys.readouterr().err


def test_training_reads_what_is_prepared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [*write_tiny_dataset(tmp_path / "tiny"), "--resize-ratio", "1.25"]
    network = build_model("delegate_nano").config

    def loaders(*more: str) -> list[ColorDataset]:
        config = resolve_config([*flags, *more], {})
        setting = Setting(config, torch.device("cpu"), build_splits(config))
        return [build_loader(setting, split, network).dataset for split in setting.splits]

    assert [data.prepared for data in loaders()] == [None] * 3
    with pytest.raises(UserError, match=r"lacks 10 of 10 images of train.*dataset\.py prepare csv"):
        loaders("--prepared", str(tmp_path / "nowhere"))
    capsys.readouterr()

    config = resolve_config(flags, {})
    spec = data_spec_from(Namespace(**vars(config)))
    transforms = needed_transforms(128, 1.25, aspect="stretch", draft=False)
    folder = spec.data_root / "prepared"
    prepare(load_splits(spec), transforms, folder=folder, root=spec.data_root)
    plain = loaders("--prepared", "off")
    found = loaders()
    output = capsys.readouterr().out
    for data, other in zip(found, plain, strict=True):
        assert f"{data.labels.split}: images from {folder}" in output
        assert (data.prepared is None, other.prepared) == (False, None)
        everything = list(range(len(data)))
        one, another = (d.__getitems__(everything)[0] for d in (data, other))
        assert torch.equal(one.pixels, another.pixels)
        assert data.transform.side == (160 if data.train else 128)

    os.utime(plain[0].labels.paths[1], ns=(1, 1))
    assert [data.prepared is None for data in loaders()] == [True, False, False]
    assert "lacks 1 of 10 images of train" in capsys.readouterr().out
    assert [data.prepared for data in loaders("--draft")] == [None] * 3  # other pixels
