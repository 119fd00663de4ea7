"""Score photographs, and show what the network saw.

    python predict.py photo.jpg --weights runs/x                    # one photograph
    python predict.py FOLDER 'more/**/*.jpg' https://host/a.jpg --weights runs/x --out scores.csv
    find . -name '*.jpg' | python predict.py - --weights runs/x --out scores.parquet --resume
    torchrun --nproc_per_node=2 predict.py FOLDER --weights runs/x --out scores.csv
    python predict.py FOLDER --weights runs/x --explain figures --report report.html --top 20
    python predict.py photo.jpg --weights runs/x --sweep hue --out-dir sweeps
    python predict.py --weights runs/x --serve
    python predict.py --weights runs/x --export model.onnx

A result has each target's score on the label's own scale, the percentile of the reported target
among the training labels, width, height, a note and an error. Each photograph has interest points
and a gate of its own: a score does not depend on batch size, order or neighbours. Exit code 0: all
were scored; 1: some could not be read (their rows say why); 2: wrong use.
"""

from __future__ import annotations

import argparse
import heapq
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm

from errors import UserError, run_cli
from images import ImageError, decode
from known_weights import no_weights_error
from models import ColorAesthetics, load_model, set_point_pooling, without_company
from photo_sources import Source, iter_sources, open_source
from score_files import check_format, read_rows
from score_output import Processes, ScoreOutput
from scoring import Row, columns, score_column, score_photos
from util import keep_freed_memory, pick_device

AMP = {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}
SWEEPS = ("hue", "saturation", "temperature", "exposure")


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line; misuse that it shows by itself ends the program with exit code 2."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("photos", nargs="*", help="files, folders, patterns, http(s) addresses; -: from stdin")
    add("--weights", type=Path, help="run or checkpoint folder, .safetensors or released .pth file")
    add("--out", type=Path, help="scores.csv, .json, .jsonl or .parquet (default: the terminal)")
    add("--resume", action="store_true", help="go on behind what --out holds")
    add("--overwrite", action="store_true", help="start --out anew")
    add("--top", type=_positive(int), metavar="K", help="print the K best, best first")
    add("--batch-size", type=_positive(int), default=16, help="photographs at once (default 16)")
    add(
        "--workers",
        type=_positive(int),
        help="threads that decode (default: CPU cores, at most 16)",
    )
    add("--device", default="auto", help="cpu, cuda, cuda:1, ... (default: a GPU if there is one)")
    add("--amp", choices=AMP, default="off", help="mixed precision: faster on a GPU, less exact")
    add("--flip-tta", action="store_true", help="mean score of a photograph and its mirror image")
    add(
        "--timeout", type=_positive(float), default=20.0, help="seconds for a download (default 20)"
    )
    add("--explain", type=Path, metavar="DIR", help="a figure of what the network saw, for each")
    add("--report", type=Path, metavar="FILE.html", help="a self-contained page of all results")
    add("--sweep", choices=SWEEPS, help="how the scores move with the photograph's color")
    add("--out-dir", type=Path, metavar="DIR", help="where --sweep writes (default --explain's)")
    add("--export", type=Path, metavar="FILE", help="write the network as .onnx or .pt2")
    add("--serve", action="store_true", help="a page to drop photographs on")
    add("--host", default="127.0.0.1", help="--serve: address to listen on (default: this machine)")
    add("--port", type=_positive(int), default=7860, help="--serve: port (default 7860)")
    args = parser.parse_args(argv)
    if not (args.photos or args.serve or args.export):
        parser.error("name photographs, folders, patterns or addresses to score (- for stdin)")
    if args.photos and (args.serve or args.export):
        parser.error("--serve and --export take no photographs")
    if args.resume and (args.overwrite or not args.out):
        parser.error("--resume goes with --out, and not with --overwrite")
    pictures = args.explain or args.sweep or args.export or args.serve
    if args.flip_tta and pictures:
        parser.error("--flip-tta is for scores, not for --explain, --sweep, --export or --serve")
    if args.sweep and not (args.explain or args.out_dir):
        parser.error("--sweep needs --out-dir or --explain: a folder for its pictures")
    return args


def _positive(kind: type) -> Callable[[str], float]:
    def parse(text: str) -> float:
        value = kind(text)
        if value <= 0:
            raise ValueError
        return value

    parse.__name__ = f"positive {kind.__name__}"  # argparse's message names it
    return parse


def load_network(args: argparse.Namespace) -> ColorAesthetics:
    """The network of --weights on its device. Raises `UserError`."""
    if args.weights is None:
        raise no_weights_error()
    local_rank = os.environ.get("LOCAL_RANK")
    several = local_rank is not None and torch.cuda.is_available() and args.device == "auto"
    device = pick_device(f"cuda:{local_rank}" if several else args.device)
    keep_freed_memory()
    model = load_model(args.weights)
    set_point_pooling(model, without_company(model.config.point_pooling))
    return model.to(device)


def score(args: argparse.Namespace, model: ColorAesthetics, processes: Processes) -> int:
    """Score all photographs into --out (or a temporary file); exit code 0 or 1."""
    with tempfile.TemporaryDirectory() as temporary:
        path = args.out or Path(temporary) / "scores.jsonl"
        output = ScoreOutput(path, columns(model.label_scale), processes)
        output.prepare(resume=args.resume, overwrite=args.overwrite)
        sources = iter_sources(args.photos)
        output.fill(sources, partial(_rows, args, model, quiet=processes.rank > 0))
        if processes.rank > 0:
            return 0
        if args.report:
            from report import write_report

            write_report(
                args.report, read_rows(path, output.columns), model, args.explain is not None
            )
        return _summary(args, model, read_rows(path, output.columns))


def _rows(
    args: argparse.Namespace, model: ColorAesthetics, sources: Iterator[Source], *, quiet: bool
) -> Iterator[list[Row]]:
    """Batches of rows; prints, explains and sweeps each photograph on its way."""
    batches = score_photos(
        model,
        sources,
        batch_size=args.batch_size,
        workers=args.workers or min(os.cpu_count() or 1, 16),
        timeout=args.timeout,
        flip_tta=args.flip_tta,
        autocast=partial(_autocast, args.amp, next(model.parameters()).device),
    )
    with tqdm(unit="image", disable=True if quiet else None, leave=False) as bar:
        for rows in batches:
            yield rows
            for row in rows:
                if not (args.out or args.top):
                    bar.write(describe(row, model))
                if not row["error"]:
                    _picture(args, model, row)
            bar.update(len(rows))


def _autocast(amp: str, device: torch.device) -> AbstractContextManager:
    return torch.autocast(device.type, dtype=AMP[amp], enabled=AMP[amp] is not None)


def _picture(args: argparse.Namespace, model: ColorAesthetics, row: Row) -> None:
    """Write what --explain and --sweep want of one photograph."""
    if not (args.explain or args.sweep):
        return
    source = Source(row["path"])
    try:
        photo = source.path
        if source.is_url:
            photo = decode(source.path, open_source(source, args.timeout))[0]
        if args.explain:
            from explain import explain_photo

            explain_photo(model, photo, args.explain, row)
        if args.sweep:
            from sweep import write_sweep

            out_dir = args.out_dir or args.explain
            write_sweep(model, photo, args.sweep, out_dir, name=row["path"])
    except ImageError as error:  # gone since it was scored
        print(f"no picture: {error}", file=sys.stderr)


def _summary(args: argparse.Namespace, model: ColorAesthetics, rows: Iterable[Row]) -> int:
    """Print the best and what failed; exit code 1 if anything did."""
    reported = score_column(model.label_scale.names[-1])
    best: list[tuple[float, int, Row]] = []
    count = failed = 0
    for count, row in enumerate(rows, start=1):
        failed += bool(row["error"])
        if args.top and not row["error"]:
            heapq.heappush(best, (row[reported], -count, row))
            if len(best) > args.top:
                heapq.heappop(best)
    for _, _, row in sorted(best, reverse=True, key=lambda entry: entry[:2]):
        print(describe(row, model))
    where = f", results in {args.out}" if args.out else ""
    if args.out or failed:
        problems = f", {failed} could not be" if failed else ""
        print(f"{count - failed} photographs scored{problems}{where}", file=sys.stderr)
    return 1 if failed else 0


def describe(row: Row, model: ColorAesthetics) -> str:
    """One line for the terminal: the reported target first."""
    path = row["path"].encode("utf-8", "backslashreplace").decode()
    if row["error"]:
        return f"{path}: error: {row['error']}"
    names = model.label_scale.names
    scores = [f"{name} {row[score_column(name)]:.2f}" for name in reversed(names)]
    if row["percentile"] is not None:
        scores[0] += f" (percentile {row['percentile']:.0f} of the training labels)"
    note = f"  [{row['note']}]" if row["note"] else ""
    return f"{path}: {', '.join(scores)}  {row['width']}x{row['height']}{note}"


def main() -> int:
    """Do what the command line asks; returns the exit code."""
    args = parse_arguments()
    if args.out:
        check_format(args.out)
    processes = Processes.of_torchrun()
    if processes.world > 1 and ("-" in args.photos or not args.out):
        raise UserError("with torchrun, name the photographs as arguments, and give --out")
    model = load_network(args)
    if args.export:
        from export_model import export

        export(model, args.export, overwrite=args.overwrite)
        return 0
    if args.serve:
        from serve import serve

        serve(model, args.host, args.port)
        return 0
    try:
        return score(args, model, processes)
    except KeyboardInterrupt:
        print("interrupted" + (": --resume goes on from here" if args.out else ""), file=sys.stderr)
        return 130


if __name__ == "__main__":
    run_cli(main)
