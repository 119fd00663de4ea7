"""C++ of this package, compiled for the machine at hand the first time that it is called.

The compiler is the environment's CXX, else c++, g++ or clang++; it takes some seconds, and the
library stays in `cache_folder()` for later runs. Without a compiler, or with NATIVE_CODE=off in the
environment, torch's operators do the same, slower.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import warnings
from functools import cache
from pathlib import Path

FLAGS = ("-O3", "-march=native", "-std=c++17", "-fopenmp", "-shared", "-fPIC")


def cache_folder() -> Path:
    """Where compiled libraries are kept: XDG_CACHE_HOME (else ~/.cache)/delegate_transformer."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "delegate_transformer"


@cache
def library(name: str) -> ctypes.CDLL | None:
    """The functions of `models/<name>.cpp`; None where it cannot be compiled or is not wanted.

    A compiler that fails is warned of, with what it says; none at all is not.
    """
    compiler = _compiler()
    if compiler is None or os.environ.get("NATIVE_CODE") == "off":
        return None
    source = Path(__file__).with_name(f"{name}.cpp")
    try:
        return ctypes.CDLL(str(_compiled(source, compiler)))
    except (OSError, RuntimeError) as error:
        warnings.warn(f"{source.name} is not used, torch's operators are: {error}", stacklevel=2)
        return None


def _compiler() -> str | None:
    """The first of the known ones that is installed."""
    names = [os.environ.get("CXX"), "c++", "g++", "clang++"]
    return next((path for name in names if name and (path := shutil.which(name))), None)


def _compiled(source: Path, compiler: str) -> Path:
    """The library made of `source`, from the cache if it was made from the same, alike, here."""
    made_from = [source.read_text(), *FLAGS, _run([compiler, "--version"]), _processor()]
    key = hashlib.sha256("\0".join(made_from).encode()).hexdigest()[:16]
    path = cache_folder() / f"{source.stem}-{key}.so"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:  # processes may do so at once
            made = Path(folder) / path.name
            _run([compiler, *FLAGS, str(source), "-o", str(made)])
            made.replace(path)
    return path


def _processor() -> str:
    """What tells this machine's instructions from those of others that share the cache."""
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text().splitlines() if facts.exists() else []
    told = {line for line in lines if line.startswith(("model name", "flags"))}
    return "\n".join([platform.machine(), platform.processor(), *sorted(told)])


def _run(command: list[str]) -> str:
    """What a command prints. Raises RuntimeError with what it complains of."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed:\n{done.stderr.strip()}")
    return done.stdout
