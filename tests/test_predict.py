"""predict.py from the command line to files and exit codes."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from PIL import Image
from scorers import lively_nano, picture, save, write_photos

import predict
from errors import UserError
from models import load_model

Run = Callable[..., int]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(lively_nano(), tmp_path_factory.mktemp("weights"))


@pytest.fixture
def run(weights: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run predict.py with these weights in this process; returns its exit code."""

    def run(*arguments: object) -> int:
        flags = ["--weights", str(weights), "--device", "cpu", "--batch-size", "3"]
        monkeypatch.setattr(sys, "argv", ["predict.py", *map(str, arguments), *flags])
        return predict.main()

    return run


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_format_holds_the_same_rows_in_input_order(
    run: Run, weights: Path, tmp_path: Path
) -> None:
    paths = write_photos(tmp_path / "photos", 7)
    order = [paths[i] for i in (4, 0, 6, 2, 1)]
    for suffix in ("csv", "json", "jsonl", "parquet"):
        assert run(*order, "--out", tmp_path / f"scores.{suffix}") == 0
    model = load_model(weights)
    table = pd.read_csv(tmp_path / "scores.csv")
    columns = ["path", "MOS", "color", "percentile", "percentile_MOS"]
    assert list(table) == [*columns, "width", "height", "note", "error"]
    assert table.path.tolist() == order
    scores = pd.DataFrame(model.score(order))
    np.testing.assert_allclose(table[["MOS", "color"]], scores, atol=1e-4)
    np.testing.assert_allclose(table.percentile, (scores.color - 1) / 0.09, atol=0.1)
    np.testing.assert_allclose(table.percentile_MOS, scores.MOS * 10, atol=0.1)
    assert table.width.tolist() == [60 + 7 * i for i in (4, 0, 6, 2, 1)]
    assert set(table.height) == {70}
    lines = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    assert json.loads((tmp_path / "scores.json").read_text()) == lines
    assert pd.read_parquet(tmp_path / "scores.parquet").to_dict("records") == lines
    assert pd.DataFrame(lines)[columns].equals(table[columns])
    assert not list(tmp_path.glob("*.part*"))


def test_one_photograph_on_the_terminal(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (path,) = write_photos(tmp_path, 1)
    assert run(path) == 0
    line = capsys.readouterr().out
    assert line.startswith(f"{path}: color ")
    assert "of the training labels), MOS " in line
    assert line.endswith("60x70\n")


def test_bad_files_get_their_rows_and_stop_nothing(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    write_photos(folder, 2)
    (folder / "empty.jpg").touch()
    buffer = io.BytesIO()
    picture(1, 300, 300).save(buffer, "JPEG")
    (folder / "cut.jpg").write_bytes(buffer.getvalue()[:4000])
    (folder / "drawing.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    (folder / "negative.CR2").write_bytes(b"II*\0")
    Image.new("1", (20_000, 20_000)).save(folder / "bomb.png")
    frames = [picture(seed) for seed in range(3)]
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:])
    picture(5).save(folder / "still.gif")
    import pillow_heif

    pillow_heif.from_pillow(picture(6)).save(folder / "phone.heic")
    picture(7).save(folder / "modern.avif")
    picture(8).save(folder / "modern.webp")
    (folder / "notes.txt").write_text("no image")
    (folder / ".hidden.jpg").touch()
    (tmp_path / "void").mkdir()
    arguments = [folder, tmp_path / "void", tmp_path / "absent.jpg", tmp_path / "no*.jpg"]
    assert run(*arguments, "--out", tmp_path / "s.csv") == 1
    rows = {Path(row["path"]).name: row for row in rows_of(tmp_path / "s.csv")}
    errors = {name: row["error"] for name, row in rows.items() if row["error"]}
    expected = {
        "empty.jpg": "the file is empty",
        "cut.jpg": "truncated",
        "drawing.svg": "SVG (a vector drawing) is not supported",
        "negative.CR2": "CR2 (a camera's raw file) is not supported",
        "bomb.png": "400000000 pixels",
        "void": "holds no photographs",
        "absent.jpg": "there is no such file",
        "no*.jpg": "no file matches",
    }
    assert errors.keys() == expected.keys()
    for name, message in expected.items():
        assert message in errors[name]
        assert rows[name]["color"] == rows[name]["width"] == ""
    good = ["photo 00.png", "photo 01.png", "moving.gif", "still.gif", "phone.heic", "modern.avif"]
    assert rows.keys() == {*expected, *good, "modern.webp"}
    assert rows["moving.gif"]["note"] == "first of 3 frames"
    assert rows["still.gif"]["note"] == rows["photo 00.png"]["note"] == ""
    assert (rows["phone.heic"]["width"], rows["phone.heic"]["height"]) == ("90", "70")


def test_existing_output_is_kept_unless_told_otherwise(run: Run, tmp_path: Path) -> None:
    paths, out = write_photos(tmp_path, 4), tmp_path / "s.csv"
    run(paths[0], "--out", out)
    before = out.read_bytes()
    with pytest.raises(UserError, match="exists: --resume continues"):
        run(*paths, "--out", out)
    with pytest.raises(UserError, match=r"the output holds .* where the input has"):
        run(*paths[1:], "--out", out, "--resume")
    assert out.read_bytes() == before
    run(*paths, "--out", out, "--resume")
    assert out.read_bytes().startswith(before)
    resumed = out.read_bytes()
    run(*paths, "--out", out, "--overwrite")
    assert out.read_bytes() == resumed
    with pytest.raises(UserError, match="where the input ends"):
        run(*paths[:2], "--out", out, "--resume")
    out.write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="holds other columns"):
        run(*paths, "--out", out, "--resume")


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_killed_scoring_leaves_whole_rows_and_goes_on(
    run: Run, weights: Path, tmp_path: Path, suffix: str
) -> None:
    paths, out = write_photos(tmp_path / "p", 9), tmp_path / f"s.{suffix}"
    command = [sys.executable, ROOT / "predict.py", "-", "--weights", weights, "--out", out]
    flags = ["--batch-size", "2", "--device", "cpu"]
    with subprocess.Popen([*command, *flags], stdin=subprocess.PIPE, cwd=tmp_path) as process:
        process.stdin.write("".join(f"{path}\n" for path in paths[:8]).encode())
        process.stdin.flush()
        growing = (
            tmp_path / {"csv": "s.csv", "parquet": "s.parquet.from-0.part-0-of-1.jsonl"}[suffix]
        )
        end = time.monotonic() + 60
        while not (growing.exists() and b"photo 01" in growing.read_bytes()):
            assert time.monotonic() < end
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    held = growing.read_bytes()
    assert held.endswith(b"\n")
    assert b"photo 08" not in held
    assert run(*paths, "--out", out, "--resume") == 0
    if suffix == "csv":
        assert out.read_bytes().startswith(held)
        whole = pd.read_csv(out)
    else:
        assert not growing.exists()
        whole = pd.read_parquet(out)
    assert whole.path.tolist() == paths
    assert run(*paths, "--out", tmp_path / "once.csv") == 0
    np.testing.assert_allclose(whole.color, pd.read_csv(tmp_path / "once.csv").color, atol=2e-4)
    assert run(*paths, "--out", out, "--resume") == 0  # nothing is left to do


def test_torchrun_shards_and_merges_in_order(run: Run, weights: Path, tmp_path: Path) -> None:
    paths = write_photos(tmp_path / "p", 5)
    (tmp_path / "p" / "photo 02.png").write_bytes(b"broken")
    run(*paths[:1], "--out", tmp_path / "s.json")
    command = ["torch.distributed.run", "--standalone", "--nproc_per_node=2", "predict.py"]
    flags = ["--weights", weights, "--out", tmp_path / "s.json", "--resume", "--device", "cpu"]
    answer = subprocess.run(
        [sys.executable, "-m", *command, tmp_path / "p", *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=200,
    )
    assert answer.returncode == 1, answer.stderr
    assert "4 photographs scored, 1 could not be" in answer.stderr
    run(*paths, "--out", tmp_path / "alone.json")
    alone, sharded = (json.loads((tmp_path / n).read_text()) for n in ("alone.json", "s.json"))
    assert [row["path"] for row in sharded] == paths
    for one, other in zip(alone, sharded, strict=True):
        assert one["error"] == other["error"]
        assert one["color"] == pytest.approx(other["color"], abs=2e-4)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["alone.json", "p", "s.json"]


def test_flip_tta_is_the_mean_of_both_mirror_images(
    run: Run, weights: Path, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (128, 128, 3), dtype=np.uint8)
    pixels[:, :64] //= 3
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert run(tmp_path / "a.png", "--flip-tta", "--out", tmp_path / "s.csv") == 0
    both = [row["color"] for row in load_model(weights).score([pixels, pixels[:, ::-1].copy()])]
    assert abs(both[0] - both[1]) > 1e-3
    assert float(rows_of(tmp_path / "s.csv")[0]["color"]) == pytest.approx(np.mean(both), abs=6e-5)


def test_top_k_best_first(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = write_photos(tmp_path, 8)
    run(*paths, "--out", tmp_path / "s.csv", "--top", 3)
    printed = [line.split(": color")[0] for line in capsys.readouterr().out.splitlines()]
    table = pd.read_csv(tmp_path / "s.csv").sort_values("color", ascending=False)
    assert printed == table.path[:3].tolist()


def test_no_weights_lists_those_there_are(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(load_model(weights), tmp_path / "runs" / "mine" / "best")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["predict.py", "a.jpg"])
    with pytest.raises(UserError) as error:
        predict.main()
    for text in (
        "--weights runs/mine/best\n",
        "pretrained/fetch.py icaa17k",
        "train_nni.py --output",
    ):
        assert text in str(error.value)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["a.jpg", "--resume"],
        ["a.jpg", "--out", "s.csv", "--resume", "--overwrite"],
        ["a.jpg", "--sweep", "hue"],
        ["a.jpg", "--batch-size", "0"],
        ["a.jpg", "--flip-tta", "--explain", "figures"],
        ["a.jpg", "--serve"],
        ["a.jpg", "--wieghts", "x"],
    ],
)
def test_misuse_ends_with_code_2(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["predict.py", *arguments])
    with pytest.raises(SystemExit, match="2"):
        predict.main()


def test_outputs_that_cannot_be(run: Run, tmp_path: Path) -> None:
    for out, message in [
        ("s.txt", "suffix must be one of"),
        ("absent/s.csv", "there is no folder"),
        ("folder.csv", "is a folder"),
    ]:
        (tmp_path / "folder.csv").mkdir(exist_ok=True)
        with pytest.raises(UserError, match=message):
            run("a.jpg", "--out", tmp_path / out)
