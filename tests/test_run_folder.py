"""The run folder: whole files only, and resumable after a kill at any step of a checkpoint."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest
import torch
from torch import nn

import run_folder
from config_layers import CONFIG
from errors import UserError
from run_folder import RunFolder

CPU = torch.device("cpu")


class Killed(BaseException):
    """Stands for a kill; not an `Exception`, so nothing may catch it."""


@pytest.fixture(autouse=True)
def small_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights of one number, so that many checkpoints can be written."""

    def save_weight(model: nn.Linear, folder: Path, extra: dict) -> None:
        (folder / "model.safetensors").write_text(str(model.bias.item()))
        (folder / "config.json").write_text(json.dumps(extra))

    monkeypatch.setattr(run_folder, "save_model", save_weight)


def mark_of(run: RunFolder, link: str) -> int:
    """The epoch whose weights a link leads to."""
    assert (run.path / link / "config.json").read_text() == "{}"
    return int(float((run.path / link / "model.safetensors").read_text()))


def save(run: RunFolder, epoch: int, best_epoch: int) -> None:
    model = nn.Linear(1, 1)
    nn.init.constant_(model.bias, epoch)
    run.save_epoch(epoch, model, {}, {"epoch": epoch, "best": best_epoch}, best_epoch=best_epoch)


@pytest.mark.parametrize("third_is_best", [False, True])
def test_a_kill_at_any_step_leaves_whole_checkpoints(
    third_is_best: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kill the writing of epoch 3 at its 1st, 2nd, ... call of anything that changes the disk."""
    steps = 0
    finished = False
    while not finished:
        run = RunFolder.create(tmp_path / f"run-{steps}", {"epochs": 3}, CPU)
        save(run, 1, best_epoch=1)
        save(run, 2, best_epoch=1)
        with monkeypatch.context() as patch:
            countdown = [steps]
            for owner, name in (
                (run_folder, "save_model"),
                (run_folder, "_flush"),
                (torch, "save"),
                (Path, "mkdir"),
                (Path, "rename"),
                (Path, "replace"),
                (Path, "symlink_to"),
                (run_folder.shutil, "rmtree"),
            ):
                kill_after(patch, owner, name, countdown)
            try:
                save(run, 3, best_epoch=3 if third_is_best else 1)
                finished = True
            except Killed:
                pass
        run = RunFolder.reopen(run.path, {"epochs": 3})
        state = run.load_state()
        last = state["epoch"]
        assert last in (2, 3)
        run.link_best(state["best"])
        assert mark_of(run, "last") == last
        assert mark_of(run, "best") == state["best"]
        if last == 2:  # as a resumed run would
            save(run, 3, best_epoch=3 if third_is_best else 1)
        assert mark_of(run, "last") == 3
        assert mark_of(run, "best") == (3 if third_is_best else 1)
        kept = sorted(path.name for path in (run.path / "epochs").iterdir())
        assert kept == (["0003"] if third_is_best else ["0001", "0003"])
        steps += 1
    assert steps > 12


def kill_after(patch: pytest.MonkeyPatch, owner: object, name: str, countdown: list[int]) -> None:
    """Let `owner.name` raise `Killed` when the calls in `countdown` are used up."""
    original = getattr(owner, name)

    def call(*args: object, **kwargs: object) -> object:
        if countdown[0] == 0:
            raise Killed
        countdown[0] -= 1
        return original(*args, **kwargs)

    patch.setattr(owner, name, call)


def test_files_appear_whole_or_not_at_all(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", {}, CPU)
    run.write_text("a.txt", "first")
    with pytest.raises(TypeError):
        run.write_json("a.txt", {"not json": object()})

    def write_half() -> None:
        with run_folder.replacing(run.path / "a.txt") as temporary:
            temporary.write_text("half")
            raise Killed

    with pytest.raises(Killed):
        write_half()
    assert (run.path / "a.txt").read_text() == "first"
    assert not list(run.path.glob(".tmp-*"))


def test_files_hold_names_of_any_kind_and_no_nan(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", {"name": "Färbung"}, CPU)
    undecodable = os.fsdecode(b"caf\xe9, b.jpg")  # a Latin-1 file name on a UTF-8 machine
    run.write_csv("a.csv", ["image", "label"], [[undecodable, 1.5], ["ö.jpg", 2]])
    assert (
        run.path / "a.csv"
    ).read_bytes() == b'image,label\n"caf\xe9, b.jpg",1.5\n\xc3\xb6.jpg,2\n'
    run.write_json("a.json", {"a": [math.nan, (1.0, math.inf)]})
    assert json.loads((run.path / "a.json").read_text()) == {"a": [None, [1.0, None]]}
    assert "Färbung" in (run.path / CONFIG).read_text(encoding="utf-8")


def test_another_runs_folder_is_refused(tmp_path: Path) -> None:
    RunFolder.create(tmp_path / "run", {}, CPU)
    with pytest.raises(UserError, match="is not empty: give another --output, or --resume"):
        RunFolder.create(tmp_path / "run", {}, CPU)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        RunFolder.create(tmp_path / "file", {}, CPU)
    (tmp_path / "empty").mkdir()
    RunFolder.create(tmp_path / "empty", {}, CPU)
    with pytest.raises(UserError, match="holds no run"):
        RunFolder.reopen(tmp_path, {})


def test_a_useless_folder_goes_and_a_useful_one_stays(tmp_path: Path) -> None:
    def fail_after(epochs: int, run: RunFolder) -> None:
        with run.dropped_if_useless():
            for epoch in range(1, epochs + 1):
                save(run, epoch, best_epoch=epoch)
            raise UserError("bad input")

    useless, useful = (RunFolder.create(tmp_path / name, {}, CPU) for name in ("a", "b"))
    with pytest.raises(UserError):
        fail_after(0, useless)
    assert not useless.path.exists()
    with pytest.raises(UserError):
        fail_after(1, useful)
    assert mark_of(useful, "last") == 1
