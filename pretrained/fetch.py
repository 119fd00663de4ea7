"""Download a released file into this folder, checked.

    python pretrained/fetch.py                  # what there is
    python pretrained/fetch.py ava              # pretrained/ava.pth, from Google Drive
    python pretrained/fetch.py ava --url URL    # the same file from elsewhere
    python train_nni.py --dataset icaa17k --data-root ICAA17K --init-from pretrained/ava.pth

A download that was cut goes on where it stopped when the command is repeated. A file takes its
place only after it was checked: no web page in its stead, not truncated, size and SHA-256 as in
manifest.yaml where known, weights readable. Exit code 0: the file is in place and whole; 1: the
download failed or the file is not what it should be; 2: wrong use.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path

import gdown
import requests
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from errors import UserError, run_cli
from models.checkpoint_files import read_state_dict, refuse_text

HERE = Path(__file__).resolve().parent
MANIFEST = HERE / "manifest.yaml"
TIMEOUT = 60  # seconds without a byte from the server


class FetchError(Exception):
    """The download failed, or what came is not the file; the message says what to do."""


@dataclass(frozen=True)
class Entry:
    """A file of manifest.yaml, which explains the fields."""

    what: str
    path: str
    format: str
    licence: str
    drive_id: str | None = None
    drive_folder: str | None = None
    drive_name: str | None = None
    size: int | None = None
    sha256: str | None = None


def read_manifest(path: Path) -> dict[str, Entry]:
    """The entries by name. Raises `UserError` for a file that is no manifest."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        return {name: Entry(**entry) for name, entry in values.items()}
    except (OSError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise UserError(f"cannot read manifest {path}: {error}") from error


def fetch(entry: Entry, folder: Path, url: str | None, retries: int) -> Path:
    """Download `entry` to its place in `folder`, from `url` if given; returns the place.

    A file that is in place is checked and kept. Raises `FetchError`; then nothing is in place, but
    for a file that was there before, and a part that can be resumed stays beside it.
    """
    target = folder / entry.path
    if target.exists():
        try:
            check(entry, target)
        except FetchError as error:
            raise FetchError(f"{error}; it was there before: delete it to fetch it anew") from None
        print(f"{target} is there already, and whole")
        return target
    unchecked = target.with_name(f".unchecked-{target.name}")
    unchecked.unlink(missing_ok=True)
    try:
        gdown.download(
            **({"url": url} if url else {"id": drive_id(entry)}),
            output=str(unchecked),
            resume=True,
            retries=retries,
            timeout=TIMEOUT,
            use_cookies=False,
        )
    except (gdown.exceptions.DownloadError, requests.RequestException, OSError) as error:
        parts = ", ".join(str(part) for part in folder.glob(f"{unchecked.name}*.part"))
        kept = f"; repeat the command to go on from {parts}, or delete it" if parts else ""
        raise FetchError(f"the download failed: {error}{kept}") from error
    try:
        check(entry, unchecked)
        unchecked.replace(target)
    finally:
        unchecked.unlink(missing_ok=True)
    print(f"{target}: {target.stat().st_size} bytes, sha256 {sha256(target)}")
    return target


def drive_id(entry: Entry) -> str:
    """The Google Drive id of a file, looked up in its shared folder where need be."""
    if entry.drive_id:
        return entry.drive_id
    if entry.drive_folder is None:
        raise FetchError("there is no known link: get it from its project, or give --url")
    files = gdown.download_folder(
        id=entry.drive_folder, skip_download=True, quiet=True, timeout=TIMEOUT, use_cookies=False
    )
    for file in files:
        if Path(file.path).name == entry.drive_name:
            return file.id
    raise FetchError(f"{entry.drive_name} is not in Drive folder {entry.drive_folder} any more")


def check(entry: Entry, path: Path) -> None:
    """Raise `FetchError` unless the file at `path` can be what `entry` describes."""
    size = path.stat().st_size
    try:
        refuse_text(path)
        if entry.size is not None and size != entry.size:
            raise FetchError(f"{path} has {size} bytes, not the {entry.size} of the manifest")
        if entry.sha256 is not None and (found := sha256(path)) != entry.sha256:
            raise FetchError(f"{path} has sha256 {found}, not {entry.sha256}")
        if entry.format == "weights":
            read_state_dict(path)
    except UserError as error:
        raise FetchError(str(error)) from error


def sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def main() -> int:
    """Fetch the file that the command line names, or list all."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("name", nargs="?", help="which file; without it, all are listed")
    parser.add_argument("--url", help="get it from there instead of Google Drive")
    parser.add_argument("--folder", type=Path, default=HERE, help="where to put it")
    parser.add_argument("--retries", type=int, default=5, help="more tries when the line breaks")
    parser.add_argument("--manifest", type=Path, default=MANIFEST, help="list of the files")
    args = parser.parse_args()
    manifest = read_manifest(args.manifest)
    if args.name is None:
        for name, entry in manifest.items():
            print(f"{name}: {entry.what}\n    {entry.path}; licence: {entry.licence}")
        return 0
    if args.name not in manifest:
        raise UserError(f"unknown file {args.name!r}; known are {', '.join(manifest)}")
    if not args.folder.is_dir():
        raise UserError(f"no folder {args.folder}")
    if args.retries < 0:
        raise UserError(f"--retries must be 0 or more, not {args.retries}")
    try:
        fetch(manifest[args.name], args.folder, args.url, args.retries)
    except FetchError as error:
        print(f"error: {args.name}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    run_cli(main)
