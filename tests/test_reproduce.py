"""reproduce/: published numbers, plans, reports from run folders, released weights, a real run."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from scipy.stats import pearsonr, spearmanr
from test_nni import NNICTL, ROOT, free_port

import sample_data
from config import TrainConfig
from config_layers import resolve_config
from errors import UserError
from images import open_rgb
from models import build_model, to_released_state_dict
from models.options import resolve
from preprocessing import normalise, resize
from reproduce import report
from reproduce.experiments import NAMES, SAMPLE_SEEDS, make_plan
from reproduce.published import TABLE_3, TABLE_4, TABLE_5, TABLE_6, TABLES, published_metrics
from reproduce.trials import Trial

# ------------------------------------------------------------------------- published numbers


def test_published_numbers_are_the_papers(shared: Path) -> None:
    text = (shared / "spec" / "delegate_transformer.md").read_text(encoding="utf-8")
    text = " ".join(text.partition("## 6.")[2].partition("## 7.")[0].replace("*", "").split())
    parts = dict(zip(("3", "4", "5", "6"), re.split(r"Table \d, ", text)[1:], strict=True))

    for number, table in (("3", TABLE_3), ("4", TABLE_4)):
        found = re.findall(r"([A-Z][\w -]+?(?: 1| 2)?) ((?:\.\d+/)+)(\d+)", parts[number])
        ours = {
            row.name.replace("*", ""): [getattr(row, m) for m in table.metrics] + [row.epochs]
            for row in (*table.others, *table.rows)
        }
        theirs = {n: [*map(float, v.strip("/").split("/")), int(e)] for n, v, e in found}
        assert ours == theirs
        assert len(ours) == {"3": 16, "4": 15}[number]

    found = re.findall(r"([SDG]{4}) (\d+)G (\.\d+) (\.\d+)", parts["5"])
    theirs = [(name, *map(float, numbers)) for name, *numbers in found]
    assert [(row.name, row.flops, row.srcc, row.plcc) for row in TABLE_5.rows] == theirs
    found = re.findall(r"([\d.]+)G (\.\d+) (\.\d+)", parts["6"])
    theirs = [tuple(map(float, numbers)) for numbers in found]
    assert [(row.flops, row.srcc, row.plcc) for row in TABLE_6.rows] == theirs
    curves = re.findall(r"(?:… ?10): ((?:\.\d+ ?)+)", parts["6"])
    for table, curve in zip(TABLES[-2:], curves, strict=True):
        assert [row.srcc for row in table.rows if row.srcc] == [float(n) for n in curve.split()]


def test_published_metrics_of_a_data_set() -> None:
    name, metrics = published_metrics("icaa17k", ("MOS", "color"))
    assert (name, metrics) == ("Ours *2", {"srcc": 0.887, "plcc": 0.901, "accuracy": 0.965})
    assert published_metrics("spaq", ("Colorfulness",))[1] == {"srcc": 0.770, "plcc": 0.791}
    assert published_metrics("spaq", ("MOS",)) is None


# ------------------------------------------------------------------------- plans


def planned(plan: Any, point: dict[str, Any]) -> Trial:
    """The trial that a point of a plan would become."""
    config = resolve_config(shlex.split(plan.command)[2:], point)
    targets = config.targets or ("MOS", "color")
    options = config.model_options
    network = resolve(config.model, config.variant, config.recipe, targets, options)
    return Trial(config, network, point, {}, 0.0, 0.0)


@pytest.mark.parametrize("scale", ["full", "sample"])
@pytest.mark.parametrize("name", NAMES)
def test_every_row_is_run_once_a_seed_and_nothing_else(name: str, scale: str) -> None:
    plan = make_plan(name, scale=scale, protocol=None, seeds=None, changes={})
    seeds = (0, 1, 2) if scale == "full" else SAMPLE_SEEDS
    trials = [planned(plan, point) for point in plan.points]
    found = sorted(
        (table.title, row.name, trial.config.seed)
        for trial in trials
        for table in TABLES
        for row in table.rows
        if trial.repeats(table, row)
    )
    table = next(table for table in TABLES if name in table.files)
    rows = [row.name for row in table.rows]
    if table is TABLE_3:  # a file for each row
        rows = [rows[table.files.index(name)]]
    assert found == sorted((table.title, row, seed) for row in rows for seed in seeds)
    assert len(trials) == len(found)
    assert len({trial.setup for trial in trials}) == 1
    assert trials[0].config.protocol == ("paper" if scale == "full" else "holdout")


def test_flags_come_later_and_later_ones_win() -> None:
    options = {"scale": "full", "seeds": (5,)}
    paper = make_plan("table4", protocol=None, changes={}, **options)
    assert "--recipe released --protocol paper --targets Colorfulness --epochs 25" in paper.command
    assert f"--init-from {ROOT}/pretrained/ava.pth" in paper.command
    assert [point["seed"] for point in paper.points] == [5]
    changes = {"epochs": 3, "amp": "bf16", "init_from": None, "gate": True}
    holdout = make_plan("table4", protocol="holdout", changes=changes, **options)
    assert "--init-from none --recipe ours --protocol holdout" in holdout.command
    assert holdout.command.endswith("--epochs 3 --amp bf16 --gate")
    assert paper.prefix != holdout.prefix
    with pytest.raises(UserError, match="unknown argument '--eposch'"):
        make_plan("table4", protocol=None, changes={"eposch": 3}, **options)


def test_a_gpu_for_each_trial_or_none(tmp_path: Path) -> None:
    plan = make_plan("table6", scale="full", protocol=None, seeds=(0, 1), changes={})
    config = plan.nni_config(tmp_path, gpus=4, concurrency=4)
    assert (config["trialGpuNumber"], config["trialConcurrency"]) == (1, 4)
    assert config["maxTrialNumber"] == len(plan.points) == 8
    assert config["trainingService"]["useActiveGpu"]
    assert "trialGpuNumber" not in plan.nni_config(tmp_path, gpus=0, concurrency=2)


# ------------------------------------------------------------------------- reports


def write_trial(
    runs: Path,
    srcc: float | None,
    *,
    parameters: dict[str, Any],
    seconds: tuple[float, ...] = (900.0, 900.0),
    **values: Any,
) -> None:
    """A run folder as train_nni.py leaves it for a finished trial of NNI."""
    number = len(list(runs.glob("*/*")))
    folder = runs / "experiment" / f"trial{number}"
    folder.mkdir(parents=True)
    values = {"dataset": "icaa17k", "targets": ("color",), "epochs": 2, **values, **parameters}
    config = TrainConfig.from_layers(("test", values))
    (folder / "config.yaml").write_text(yaml.safe_dump(config.to_dict()))
    nni = {"experiment": "experiment", "trial": folder.name, "parameters": parameters}
    (folder / "environment.json").write_text(json.dumps({"nni": nni}))
    rows = [f"{epoch},{value}" for epoch, value in enumerate(seconds, start=1)]
    (folder / "epochs.csv").write_text("\n".join(["epoch,seconds", *rows, ""]))
    reported = {"srcc": srcc, "plcc": 0.9, "accuracy": 0.95}
    target = config.targets[-1]
    summary = {name: {"value": value} for name, value in reported.items()}
    test = {"images": 9, "targets": dict.fromkeys(config.targets, summary)}
    (folder / "metrics.json").write_text(json.dumps({"target": target, "test": test}))
    os.utime(folder / "metrics.json", (number, number))


def table_lines(text: str, title: str) -> list[list[str]]:
    """Cells of the lines of a table below the heading that begins with `title`."""
    section = text.partition(f"## {title}")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


def test_report_averages_the_seeds_of_each_setup(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for seed, srcc in enumerate((0.86, 0.87, 0.88)):
        point = {"stages": "SSGG", "seed": seed}
        write_trial(runs, srcc, parameters=point, recipe="released", protocol="paper")
    for seed, srcc in ((0, 0.1), (1, 0.82), (0, 0.80)):  # seed 0 was run again
        write_trial(runs, srcc, parameters={"stages": "SSGG", "seed": seed}, init_from="ava.pth")
    write_trial(runs, None, parameters={"stages": "SSSS", "seed": 0})  # constant scores
    write_trial(runs, 0.5, parameters={"stages": "SSDD", "seed": 0}, dataset="sample")
    write_trial(runs, 0.3, parameters={"stages": "GGGG", "seed": 0, "lr": 1e-4})  # a search
    out = tmp_path / "REPRODUCTION.md"
    report.main(["--runs", str(runs), "--out", str(out), "--released-runs", str(tmp_path / "no")])
    text = out.read_text(encoding="utf-8")

    runs_of = {line[0]: line[1:] for line in table_lines(text, "Runs")}
    number = {(line[1], line[2], line[3], line[5]): n for n, line in runs_of.items()}
    paper = number["icaa17k", "released", "**test split** †", "none: from scratch"]
    ava = number["icaa17k", "ours", "part of train", "ava.pth"]
    lines = table_lines(text, "Table 5")
    by_row = {(line[0], line[1]): line for line in lines}
    # mean .87, deviation sqrt((.01^2 + 0 + .01^2) / 2) = .01; .9 of all; 3 x 1800 s
    row = by_row["SSGG", paper]
    assert row[2:6] == ["3", ".873", ".8700 ± .0100 †", "-0.003"]
    assert row[6:9] == [".890", ".9000 ± .0000 †", "+0.010"]
    assert row[9:12] == ["–", "2", "1.5"]
    # mean .81, deviation sqrt(.01^2 + .01^2) = .0141
    assert by_row["SSGG", ava][2:6] == ["2", ".873", ".8100 ± .0141", "-0.063"]
    undefined = next(line for line in lines if line[0] == "SSSS")
    assert undefined[3:6] == [".830", "undefined", "–"]
    sample = next(line for line in lines if line[0] == "SSDD")
    assert sample[3:6] == [".836", ".5000", "–"]
    assert f"run {sample[1]} reproduces nothing of the paper" in text
    not_run = next(line for line in lines if line[0] == "GGGG")
    assert not_run[1:6] == ["–", "0", ".837", "not run", "–"]
    # FLOPs of the published network: 31.45 G an image, 503 G for 16, 252 G halved
    assert by_row["SSGG", paper][12:] == ["140", "31.45", "503", "252"]
    assert Image.open(tmp_path / "REPRODUCTION_figure6.png").size > (800, 300)


def test_report_without_trials_says_what_to_do(tmp_path: Path) -> None:
    out = ["--out", str(tmp_path / "r.md"), "--released-runs", str(tmp_path)]
    with pytest.raises(UserError, match=r"reproduce/run\.py starts some"):
        report.main(["--runs", str(tmp_path / "none"), *out])
    assert not (tmp_path / "r.md").exists()


def test_figure_6_draws_means_and_deviations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, drawn = tmp_path / "runs", []
    for count, seed, srcc in ((3, 0, 0.6), (3, 1, 0.8), (9, 0, 0.4)):
        write_trial(runs, srcc, parameters={"color_spaces": count, "seed": seed})
    monkeypatch.setattr(
        "matplotlib.axes.Axes.errorbar",
        lambda self, x, y, yerr, **_: drawn.append((x, y, yerr)),
    )
    report.main(["--runs", str(runs), "--out", str(tmp_path / "r.md")])
    [(x, y, bars)] = drawn
    assert x == [3, 9]
    assert y == pytest.approx([0.7, 0.4])
    assert bars == pytest.approx([0.2 / np.sqrt(2), np.nan], nan_ok=True)


# ------------------------------------------------------------------------- released weights

COUNTS = {"icaa17k": 37, "spaq": 33}  # test images: a last batch that is not full


def write_photographs(folder: Path, names: list[str]) -> None:
    random = np.random.default_rng(0)
    for name in names:
        pixels = random.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).resize((40, 40), Image.Resampling.NEAREST).save(folder / name)


def write_data(root: Path, dataset: str) -> tuple[list[Path], np.ndarray]:
    """A small data set in the layout of ICAA17K or SPAQ; paths and reported labels of test."""
    random = np.random.default_rng(1)
    columns, files = {
        "icaa17k": (["ID", "color", "MOS", "probability"], ("1train.csv", "1test.csv")),
        "spaq": (["image_id", "MOS", "Colorfulness"], ("spaqTrain.csv", "spaqTest.csv")),
    }[dataset]
    for file, count in zip(files, (3, COUNTS[dataset]), strict=True):
        names = [f"{file[:-4]}/{index}.jpg" for index in range(count)]
        write_photographs(root, names)
        scores = random.uniform(1, 9, (count, len(columns) - 1)).round(2)
        with (root / file).open("w", newline="") as opened:
            rows = [[name, *row] for name, row in zip(names, scores.tolist(), strict=True)]
            csv.writer(opened).writerows([columns, *rows])
    reported = columns.index({"icaa17k": "color", "spaq": "Colorfulness"}[dataset]) - 1
    return [root / name for name in names], scores[:, reported]


@pytest.mark.usefixtures("one_thread")
def test_released_weights_are_compared_with_their_names(tmp_path: Path) -> None:
    files = {
        "icaa17k": "e_30_ICAA17K_multi_tacc0.9622_srcc0.8811_tlcc0.8981.pth",
        "spaq": "e_3_SPAQ_vacc0.8506_srcc0.7686vlcc0.7909.pth",
    }
    in_name = {"icaa17k": (0.8811, 0.8981, 0.9622), "spaq": (0.7686, 0.7909, 0.8506)}
    expected = {}
    (tmp_path / "weights").mkdir()
    for seed, (dataset, name) in enumerate(files.items()):
        torch.manual_seed(seed)
        model = build_model("delegate_nano", dataset, recipe="released").eval()
        with torch.no_grad():  # scores that differ from image to image, points from batch to batch
            for parameter_name, parameter in model.named_parameters():
                if "interest_net" in parameter_name or "offset_net" in parameter_name:
                    parameter.mul_(20)
            model.head.color_points.weight.mul_(10)
        torch.save(to_released_state_dict(model, tied=True), tmp_path / "weights" / name)
        paths, label = write_data(tmp_path / dataset, dataset)
        pixels = torch.stack([normalise(resize(open_rgb(path), 128)) for path in paths])
        for scored, size in (("batch", {"icaa17k": 16, "spaq": 32}[dataset]), ("image", 1)):
            with torch.inference_mode():
                scores = torch.cat([model(batch) for batch in pixels.split(size)])[:, -1]
            score = 10 * scores.double().numpy()
            expected[dataset, scored if size == 1 else f"batch-{size}"] = (
                spearmanr(label, score).statistic,
                pearsonr(label, score).statistic,
                np.mean((label > 5) == (score > 5)),
            )
    argv = ["--released", str(tmp_path / "weights"), "--released-runs", str(tmp_path / "released")]
    for dataset in files:
        argv += [f"--data-root-{dataset}", str(tmp_path / dataset)]
    out = tmp_path / "r.md"
    report.main([*argv, "--runs", str(tmp_path / "none"), "--out", str(out), "--device", "cpu"])
    lines = table_lines(out.read_text(encoding="utf-8"), "Released weights")
    assert len(lines) == 2 * 2 * 3
    for (dataset, scored), values in expected.items():
        rows = [line for line in lines if line[0] == f"`{files[dataset]}`" and line[1] == scored]
        assert [row[2] for row in rows] == [str(COUNTS[dataset])] * 3
        assert [float(row[4]) for row in rows] == list(in_name[dataset])
        assert [float(row[5]) for row in rows] == pytest.approx(values, abs=2e-4)
        differences = np.subtract(values, in_name[dataset])
        assert [float(row[6]) for row in rows] == pytest.approx(differences, abs=2e-4)
    for dataset in files:  # else nothing was tested: the two ways of scoring differ
        one, other = (values for key, values in expected.items() if key[0] == dataset)
        assert abs(one[1] - other[1]) > 1e-3


def test_other_files_are_no_released_weights(tmp_path: Path) -> None:
    (tmp_path / "ava.pth").write_bytes(b"")
    with pytest.raises(UserError, match="no released checkpoint below"):
        report.main(["--released", str(tmp_path)])


# ------------------------------------------------------------------------- a real experiment


def test_one_command_runs_an_experiment_and_writes_the_report(tmp_path: Path) -> None:
    if not NNICTL.is_file():
        pytest.skip("nnictl is not installed beside this Python")
    sample_data.ensure_sample(ROOT / "data" / "sample")
    command = [sys.executable, str(ROOT / "reproduce" / "run.py"), "--scale", "sample"]
    command += ["--tables", "table3_ours1", "--val-fraction", "0.9", "--device", "cpu"]
    command += ["--folder", str(tmp_path), "--port", str(free_port())]
    environment = {**os.environ, "HOME": str(tmp_path)}  # NNI's own files go there

    def run() -> tuple[str, list[list[str]]]:
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        text = (tmp_path / "REPRODUCTION.md").read_text(encoding="utf-8")
        return done.stdout, table_lines(text, "Table 3")

    output, lines = run()
    assert "table3_ours1: 2/2 trials" in output
    values = []
    for path in tmp_path.glob("runs/nni/table3_ours1-*-1/*/predictions.csv"):
        with path.open(newline="") as file:
            rows = [(float(row["label"]), float(row["prediction"])) for row in csv.DictReader(file)]
        values.append(spearmanr(*zip(*rows, strict=True)).statistic)
    assert len(values) == 2
    mean, deviation = re.fullmatch(r"(\S+) ± (\S+)", lines[0][4]).groups()
    assert lines[0][:4] == ["Ours *1", "1", "2", ".873"]
    assert float(mean) == pytest.approx(np.mean(values), abs=1e-3)
    assert float(deviation) == pytest.approx(np.std(values, ddof=1), abs=1e-3)
    output, again = run()  # nothing is left to do
    assert "table3_ours1: all 2 trials have finished" in output
    assert again == lines
