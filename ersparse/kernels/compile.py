"""kernels.cpp as a shared library: compiled at first use, and kept by what went into it."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path

log = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("kernels.cpp")
COMPILERS = ("c++", "g++", "clang++")
ALWAYS = ("-std=c++17", "-O3", "-ffp-contract=fast", "-shared", "-fPIC", "-Wno-psabi")
# in this order; Apple's clang has no OpenMP, and some ARM compilers want -mcpu
PREFERRED = (("-march=native", "-fopenmp"), ("-mcpu=native", "-fopenmp"), ("-march=native",), ())


class KernelsUnavailable(RuntimeError):
    """There is no compiler, or it refuses; the message is one line that says why."""


@lru_cache
def library(real: str, stored: str) -> ctypes.CDLL:
    """The kernels for numbers of type `real` ("float", "double"), kept as `stored` ("bfloat16" too).

    Raises:
        KernelsUnavailable: it cannot be compiled here.
    """
    kernels = ctypes.CDLL(str(_compiled((f"-DREAL={real}", f"-DSTORED={stored}"))))
    kernels.run.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64]
    kernels.run.restype = None
    kernels.size_of_op.restype = kernels.lanes.restype = ctypes.c_int64
    return kernels


def _compiled(defines: tuple[str, ...]) -> Path:
    """From the cache, where this source, compiler and processor were met before."""
    compiler = _compiler()
    made_of = [SOURCE.read_text(), _output([compiler, "--version"]), _processor(), *ALWAYS, *defines, str(PREFERRED)]
    name = f"kernels-{hashlib.sha256('/'.join(made_of).encode()).hexdigest()[:16]}.so"
    path = _folder() / name
    if not path.exists():
        _build(compiler, defines, path)
    return path


def _build(compiler: str, defines: tuple[str, ...], path: Path) -> None:
    """Beside its place first: processes that start together all find a whole file."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    said = ""
    log.info("compiling the kernels of sparse execution, once for this processor")
    try:
        for flags in PREFERRED:
            command = [compiler, *ALWAYS, *flags, *defines, "-o", str(partial), str(SOURCE)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode == 0:
                partial.replace(path)
                return
            said = said or done.stderr.strip()
    finally:
        partial.unlink(missing_ok=True)
    raise KernelsUnavailable(f"{compiler} cannot compile the kernels: {said.splitlines()[0] if said else 'no reason'}")


def _compiler() -> str:
    wanted = os.environ.get("CXX")
    found = next(filter(None, map(shutil.which, [wanted] if wanted else COMPILERS)), None)
    if found is None:
        raise KernelsUnavailable(f"there is no C++ compiler ({wanted or ', '.join(COMPILERS)})")
    return found


def _folder() -> Path:
    """The cache, or a place of this process's own where that cannot be written."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ersparse" / "kernels"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="ersparse-kernels-"))


def _processor() -> str:
    """What -march=native follows from."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return "/".join(
        sorted({line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))})
    )


def _output(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True).stdout
