"""What weights there are to score with, for those who named none."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import yaml

from errors import UserError

MANIFEST = Path(__file__).resolve().parent / "pretrained" / "manifest.yaml"
SHOWN = 10  # runs that are listed at most


def no_weights_error() -> UserError:
    """Lists runs in this folder, released files (there or how to get them), and how to train."""
    lines = ["no weights to score with: name them with --weights FILE|FOLDER", "trained here:"]
    runs = [str(path.parent) for path in islice(Path("runs").glob("**/best/config.json"), SHOWN)]
    lines += [f"  --weights {run}" for run in sorted(runs)] or ["  none found in runs/"]
    lines.append("released by the paper's authors:")
    manifest = yaml.safe_load(MANIFEST.read_text(encoding="utf-8"))
    for name, entry in manifest.items():
        if name in ("icaa17k", "spaq"):
            path = MANIFEST.parent / entry["path"]
            how = "" if path.is_file() else f"after: python pretrained/fetch.py {name}"
            drive = entry.get("drive_id") or f"folder {entry['drive_folder']}"
            lines.append(f"  --weights pretrained/{entry['path']}  {how}".rstrip())
            lines.append(f"      {entry['what']} (Google Drive {drive})")
    lines += ["to train your own:", "  python train_nni.py --output runs/mine"]
    return UserError("\n".join(lines))
