"""C++ of this package (`models/native/`), compiled for the machine at hand when it is first called.

The compiler is the environment's CXX, else c++, g++ or clang++; it takes some seconds, and the
library stays in `cache_folder()` for later runs. Without a compiler, or with NATIVE_CODE=off in the
environment, torch's operators do the same, slower. Serves float32 on x86-64 CPUs, where it was
measured.

Every function's sums are made in an order that the number of threads does not change.
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

import torch
from torch import Tensor

from models.precision import is_plain_float32

SOURCES = Path(__file__).with_name("native")
FLAGS = ("-O3", "-march=native", "-std=c++17", "-fopenmp", "-shared", "-fPIC")


def runs_native(*tensors: Tensor) -> bool:
    """Whether functions of `library` may take these: float32 on an x86-64 CPU, not traced, and
    compiled."""
    return is_plain_float32(*tensors) and library() is not None


Argument = Tensor | ctypes.Structure | int | None


def call(function: str, *arguments: Argument) -> None:
    """Call a function of `library`; of contiguous tensors it gets the addresses, of structures,
    too, null of None. Last comes the number of threads."""
    given = [_argument(argument) for argument in (*arguments, torch.get_num_threads())]
    getattr(library(), function)(*given)


def _argument(argument: Argument) -> object:
    if argument is None or isinstance(argument, Tensor):
        return ctypes.c_void_p(None if argument is None else argument.data_ptr())
    return ctypes.c_int64(argument) if isinstance(argument, int) else ctypes.byref(argument)


def cache_folder() -> Path:
    """Where the library is kept: XDG_CACHE_HOME (else ~/.cache)/delegate_transformer."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "delegate_transformer"


@cache
def library() -> ctypes.CDLL | None:
    """The compiled functions; None where they cannot be compiled or are not wanted.

    A compiler that fails is warned of, with what it says; none at all is not.
    """
    compiler = _compiler()
    if compiler is None or os.environ.get("NATIVE_CODE") == "off":
        return None
    try:
        return ctypes.CDLL(str(_compiled(compiler)))
    except (OSError, RuntimeError) as error:
        warnings.warn(f"{SOURCES} is not used, torch's operators are: {error}", stacklevel=2)
        return None


def _compiler() -> str | None:
    """The first of the known ones that is installed."""
    names = [os.environ.get("CXX"), "c++", "g++", "clang++"]
    return next((path for name in names if name and (path := shutil.which(name))), None)


def _compiled(compiler: str) -> Path:
    """The library, from the cache if it was made of the same sources by the same compiler for such
    a processor."""
    sources = sorted(SOURCES.iterdir())
    made_from = [path.read_text(encoding="utf-8") for path in sources]
    made_from += [*FLAGS, _run([compiler, "--version"]), _processor()]
    key = hashlib.sha256("\0".join(made_from).encode()).hexdigest()[:16]
    path = cache_folder() / f"native-{key}.so"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:  # processes may do so at once
            made = Path(folder) / path.name
            files = [str(source) for source in sources if source.suffix == ".cpp"]
            _run([compiler, *FLAGS, *files, "-o", str(made)])
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
