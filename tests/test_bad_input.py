"""Bad input: exit code 2, one line of what, where and what to do, and nothing left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny import write_tiny_dataset
from torch import Tensor

import train_nni
from errors import run_cli
from losses import LOSSES
from models import build_model, load_model, save_model

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Flags that train well, in an empty working directory."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return [*write_tiny_dataset(tmp_path / "data", train=8, test=3), "--epochs", "1"]


@pytest.fixture
def refuse(flags: list[str], capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run with more flags; check exit code and that no file was made; return the message."""

    def run(*more: str) -> str:
        with pytest.raises(SystemExit) as exit_info:
            run_cli(lambda: train_nni.main([*flags, *more]))
        message = capsys.readouterr().err.strip().splitlines()[-1]
        assert exit_info.value.code == 2
        assert message.startswith("error: ")
        assert not set(Path().rglob("*")) - {Path("runs")}, "something was left behind"
        return message

    return run


def labels_of(flags: list[str], split: str = "train") -> Path:
    return Path(flags[flags.index(f"--{split}-csv") + 1])


def test_missing_data_folder_says_how_to_get_the_data(
    refuse: Callable[..., str], flags: list[str]
) -> None:
    del flags[:]
    message = refuse("--dataset", "icaa17k", "--data-root", "nowhere")
    assert "nowhere" in message
    assert "18PDtXiQNqHe8NUFK9jpuAjBp2MxRjRGM" in message


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (
            lambda lines: [lines[0].replace("beauty", "appeal"), *lines[1:]],
            ["no column 'beauty'", "'appeal'"],
        ),
        (lambda lines: [], ["train.csv", "empty"]),
        (lambda lines: lines[:1], ["train.csv", "no rows"]),
        (lambda lines: [*lines, "train 0.png,2,nan\n"], ["row 10", "beauty", "nan"]),
        (lambda lines: [*lines, "train 0.png,2,7.5\n"], ["row 10", "7.5", "1..7"]),
        (lambda lines: [*lines, "gone.png,2,3\n"], ["row 10", "gone.png"]),
        (lambda lines: [*lines, "train 0.png,2,3\n"], ["row 10", "repeats row 2"]),
        (lambda lines: [*lines, "test 0.png,2,3\n"], ["test 0.png", "also in the train split"]),
    ],
    ids=["column", "empty", "no rows", "nan", "range", "missing image", "twice", "overlap"],
)
def test_bad_labels(
    refuse: Callable[..., str],
    flags: list[str],
    edit: Callable[[list[str]], list[str]],
    expected: list[str],
) -> None:
    path = labels_of(flags)
    path.write_text("".join(edit(path.read_text().splitlines(keepends=True))))
    message = refuse()
    for words in expected:
        assert words in message


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_broken_image_is_named_with_its_row(
    refuse: Callable[..., str], flags: list[str], workers: str
) -> None:
    """It shows up only while training, with the run folder already made."""
    image = labels_of(flags).parent / "train 3.png"
    image.write_bytes(image.read_bytes()[:100])
    message = refuse("--workers", workers)
    assert "train 3.png" in message
    assert "row 5" in message
    assert "--skip-broken" in message


def test_skip_broken_lists_what_it_leaves_out(
    flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (labels_of(flags).parent / "train 3.png").write_bytes(b"")
    (labels_of(flags).parent / "test 1.png").unlink()
    assert train_nni.main([*flags, "--skip-broken", "--output", "run"]) == 0
    text = capsys.readouterr().out
    assert "train: 1 of 8 images left out" in text
    assert "test: 1 of 3 images left out" in text
    assert "row 5 (train 3.png)" in text
    assert len(Path("run/predictions.csv").read_text().splitlines()) == 1 + 2


class Attack:
    """A pickle that would run a command when it is loaded."""

    def __reduce__(self) -> tuple:
        return os.system, ("touch attacked",)


def another_architecture(path: Path) -> None:
    torch.save(build_model("delegate_tiny").state_dict(), path)


def truncated(path: Path) -> None:
    torch.save(build_model("delegate_nano").state_dict(), path)
    path.write_bytes(path.read_bytes()[:50_000])


def with_code(path: Path) -> None:
    torch.save({"model": Attack()}, path)


def web_page(path: Path) -> None:
    path.write_text("<!DOCTYPE html><html>Google Drive - Quota exceeded</html>")


@pytest.mark.parametrize(
    ("write", "expected"),
    [
        (another_architecture, "another architecture"),
        (truncated, "truncated"),
        (with_code, "code"),
        (web_page, "web page"),
        (lambda path: None, "no weights at"),
    ],
    ids=["another architecture", "truncated", "code", "web page", "missing"],
)
def test_bad_checkpoint(
    refuse: Callable[..., str], tmp_path: Path, write: Callable[[Path], None], expected: str
) -> None:
    path = tmp_path / "weights.pth"
    write(path)
    message = refuse("--init-from", str(path))
    assert expected in message
    assert "weights.pth" in message


def test_evaluating_heads_of_other_targets(refuse: Callable[..., str], tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    model = build_model("delegate_nano", recipe="ours", targets=("sharpness",))
    save_model(model, folder, {"dataset": "csv"})
    message = refuse("--evaluate", "--init-from", str(folder))
    assert "quality, beauty" in message


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--batch-size", "0"], "--batch-size must be above 0"),
        (["--model", "delegate_huge"], "unknown model 'delegate_huge'"),
        (["--point-pooling", "max"], "point_pooling must be one of"),
        (["--no-such-flag"], "unknown argument '--no-such-flag'"),
        (["--amp", "fp16"], "needs a GPU"),
        (["--output", ""], "is not empty"),
        (["--image-size", "100"], "image_size 100"),
    ],
)
def test_bad_flags(refuse: Callable[..., str], more: list[str], expected: str) -> None:
    if more[0] == "--output":  # the folder of something else
        more = ["--output", str(ROOT / "models")]
    assert expected in refuse(*more)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_where_there_is_none(refuse: Callable[..., str]) -> None:
    assert "--device cuda: torch sees 0 CUDA devices here" in refuse("--device", "cuda")


def break_loss_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the loss be infinite from the `step`-th call on."""
    calls = []

    def loss(prediction: Tensor, target: Tensor) -> Tensor:
        calls.append(None)
        value = (prediction - target).square().mean(dim=1)
        return value * torch.inf if len(calls) >= step else value

    monkeypatch.setitem(LOSSES, "mse", loss)


def test_a_loss_that_is_not_finite_from_the_start(
    refuse: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    break_loss_at(2, monkeypatch)
    message = refuse()
    assert "not finite at epoch 1, step 2 of 2" in message
    assert "lower --lr" in message


def test_a_loss_that_is_not_finite_keeps_the_last_checkpoint(
    flags: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = 2  # an epoch: 6 of the 8 images train, 2 validate; batches of 4
    break_loss_at(steps + 1, monkeypatch)
    with pytest.raises(SystemExit) as exit_info:
        run_cli(lambda: train_nni.main([*flags, "--epochs", "3", "--output", "run"]))
    assert exit_info.value.code == 2
    assert "epoch 2, step 1 of 2" in capsys.readouterr().err
    state = load_model("run/last").state_dict()
    assert all(value.isfinite().all() for value in state.values())
    assert Path("run/last").resolve().name == "0001"


def test_one_line_and_no_traceback_from_the_shell(tmp_path: Path) -> None:
    """And for a folder that does not exist, nothing but the message."""
    command = [sys.executable, str(ROOT / "train_nni.py"), "--dataset", "spaq"]
    answer = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert answer.returncode == 2
    assert answer.stderr.startswith("error: no data folder data/spaq")
    assert len(answer.stderr.splitlines()) == 1
    assert not any(tmp_path.iterdir())
