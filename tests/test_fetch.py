"""pretrained/fetch.py against a real HTTP server that misbehaves in the ways that servers do."""

from __future__ import annotations

import hashlib
import re
import runpy
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import gdown
import pytest
import torch
import yaml

ROOT = Path(__file__).resolve().parent.parent
Command = Callable[..., tuple[int, str, str]]  # exit code, stdout and stderr
QUOTA_PAGE = b"<!DOCTYPE html><html><title>Google Drive - Quota exceeded</title></html>"


@dataclass
class Server:
    """What is served, and what was asked."""

    body: bytes
    cut_after: int | None = None  # bytes that a response gives before the line breaks
    breaks: int = 0  # responses that are cut, from the first on
    ranges: list[str | None] = field(default_factory=list)
    url: str = ""

    def handler(server) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked = self.headers.get("Range")
                server.ranges.append(asked)
                start = int(re.match(r"bytes=(\d+)-", asked)[1]) if asked else 0
                part = server.body[start:]
                self.send_response(206 if asked else 200)
                self.send_header("Content-Length", str(len(part)))
                if asked:
                    last, total = len(server.body) - 1, len(server.body)
                    self.send_header("Content-Range", f"bytes {start}-{last}/{total}")
                self.end_headers()
                if server.breaks > 0:
                    server.breaks -= 1
                    part = part[: server.cut_after]
                self.wfile.write(part)
                self.close_connection = True

            def log_message(self, *_: object) -> None:
                """Nothing on the terminal."""

        return Handler


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("weights") / "w.pth"
    torch.save({"layer.weight": torch.arange(500_000.0)}, path)
    return path.read_bytes()


@pytest.fixture
def server(weights: bytes) -> Iterator[Server]:
    server = Server(weights)
    http = ThreadingHTTPServer(("127.0.0.1", 0), server.handler())
    thread = threading.Thread(target=http.serve_forever, args=(0.02,))
    thread.start()
    server.url = f"http://127.0.0.1:{http.server_port}/w.pth"
    try:
        yield server
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs fetch.py as a script with these arguments; gives exit code, stdout and stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fetch.py", *arguments])
        monkeypatch.setattr(sys, "path", list(sys.path))
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(ROOT / "pretrained/fetch.py"), run_name="__main__")
        return ended.value.code, *capsys.readouterr()

    return run


@pytest.fixture
def fetch(command: Command, server: Server, weights: bytes, tmp_path: Path) -> Command:
    """Runs `command` on a manifest of one file, `w`, whose entry gets `changes`."""

    def run(name: str = "w", retries: int = 0, **changes: object) -> tuple[int, str, str]:
        entry = {"what": "a test", "path": "w.pth", "format": "weights", "licence": "ours"}
        entry |= {"size": len(weights), "sha256": hashlib.sha256(weights).hexdigest()} | changes
        manifest = tmp_path / "manifest.yaml"
        manifest.write_text(yaml.safe_dump({"w": entry}))
        options = {"url": server.url, "folder": tmp_path, "manifest": manifest, "retries": retries}
        return command(name, *(f"--{key}={value}" for key, value in options.items()))

    return run


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != "manifest.yaml")


def test_a_cut_download_goes_on_when_repeated(
    server: Server, fetch: Command, weights: bytes, tmp_path: Path
) -> None:
    server.cut_after, server.breaks = 1_200_000, 1
    code, _, errors = fetch()
    assert code == 1
    assert "repeat the command to go on from" in errors
    (part,) = files(tmp_path)
    assert part.endswith(".part")
    assert (tmp_path / part).read_bytes() == weights[: 2**20]  # whole blocks of 512 KiB are kept

    server.ranges.clear()
    code, output, _ = fetch()
    assert code == 0
    assert server.ranges == [None, "bytes=1048576-"]  # one look at the length, then the rest
    assert files(tmp_path) == ["w.pth"]
    assert (tmp_path / "w.pth").read_bytes() == weights
    assert hashlib.sha256(weights).hexdigest() in output

    server.ranges.clear()
    code, output, _ = fetch()
    assert (code, server.ranges) == (0, [])  # a whole file is not fetched again
    assert "is there already, and whole" in output
    (tmp_path / "w.pth").write_bytes(weights[:-1])
    code, _, errors = fetch()
    assert code == 1
    assert "delete it to fetch it anew" in errors


def test_breaks_are_retried_within_one_run(
    server: Server, fetch: Command, weights: bytes, tmp_path: Path
) -> None:
    server.cut_after, server.breaks = 600_000, 2
    code, _, errors = fetch(retries=2)
    assert code == 0, errors
    assert server.ranges == [None, "bytes=524288-", "bytes=1048576-"]
    assert (tmp_path / "w.pth").read_bytes() == weights


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("quota page", r"is a web page, not a checkpoint"),
        ("wrong hash", r"has sha256 \w+, not 0000"),
        ("wrong size", r"has \d+ bytes, not the 7 of the manifest"),
        ("truncated, size unknown", r"is truncated or no torch checkpoint"),
    ],
)
def test_what_is_not_the_file_is_refused(
    case: str, message: str, server: Server, fetch: Command, weights: bytes, tmp_path: Path
) -> None:
    unknown: dict[str, object] = {"size": None, "sha256": None}
    if case == "quota page":
        server.body = QUOTA_PAGE
    if case.startswith("truncated"):
        server.body = weights[:60_000]
    changes = {"wrong hash": {"sha256": "0" * 64}, "wrong size": {"size": 7}}.get(case, unknown)
    code, _, errors = fetch(**changes)
    assert code == 1
    assert re.search(message, errors)
    assert "Traceback" not in errors
    assert files(tmp_path) == []  # neither in place nor as a part to resume


def test_a_dead_link_and_wrong_use(server: Server, fetch: Command, tmp_path: Path) -> None:
    server.url = "http://127.0.0.1:9/w.pth"  # nobody listens there
    code, _, errors = fetch()
    assert (code, files(tmp_path)) == (1, [])
    assert "the download failed" in errors
    code, _, errors = fetch("v")
    assert code == 2
    assert "unknown file 'v'; known are w" in errors


def test_the_manifest_lists_what_was_released(command: Command) -> None:
    code, listing, _ = command()
    assert code == 0
    entries = yaml.safe_load((ROOT / "pretrained/manifest.yaml").read_text(encoding="utf-8"))
    assert set(entries) == {"ava", "icaa17k", "spaq", "icaa17k_images", "dat_imagenet"}
    for name, entry in entries.items():
        assert f"{name}: {entry['what']}" in listing
    code, _, errors = command("dat_imagenet")
    assert code == 1
    assert "give --url" in errors


def test_a_file_in_a_shared_folder_is_found_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    script = runpy.run_path(str(ROOT / "pretrained/fetch.py"))
    entry = script["read_manifest"](script["MANIFEST"])["spaq"]
    listing = [
        SimpleNamespace(id="1", path="models/e_30_ICAA17K.pth"),
        SimpleNamespace(id="2", path=f"models/{entry.drive_name}"),
    ]
    monkeypatch.setattr(gdown, "download_folder", lambda **_: listing)
    assert script["drive_id"](entry) == "2"
    listing.pop()
    with pytest.raises(script["FetchError"], match="not in Drive folder 1plWBu2n"):
        script["drive_id"](entry)
