"""Just-in-time compilation of the kernels into a shared library, cached under a digest of all it depends on."""

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

SOURCE, INT8_SOURCE = (Path(__file__).with_name(name) for name in ("kernels.cpp", "int8.cpp"))
HEADERS = tuple(sorted(SOURCE.parent.glob("*.h")))
COMPILERS = ("c++", "g++", "clang++")
COMMON_FLAGS = ("-std=c++17", "-O3", "-ffp-contract=fast", "-shared", "-fPIC", "-Wno-psabi")
# Tried in this order: Apple's clang has no OpenMP, and some ARM compilers require -mcpu.
TARGET_FLAGS = (("-march=native", "-fopenmp"), ("-mcpu=native", "-fopenmp"), ("-march=native",), ())


class KernelsUnavailable(RuntimeError):
    """The kernels cannot be compiled: there is no compiler, or it fails. The message is one line with the reason."""


@lru_cache
def library(real: str, stored: str) -> ctypes.CDLL:
    """Load the kernels for a pair of element types, and compile them if they are not in the cache.

    Args:
        real: C type of weights, sums and arithmetic: "float" or "double".
        stored: C type of activations and their gradients in memory: `real`, or "bfloat16".

    Raises:
        KernelsUnavailable: there is no compiler, or it fails.
    """
    kernels = ctypes.CDLL(str(_cached_library(SOURCE, (f"-DREAL={real}", f"-DSTORED={stored}"))))
    kernels.run.argtypes = [ctypes.c_void_p, *[ctypes.c_int64] * 4]
    kernels.run.restype = None
    kernels.size_of_op.restype = kernels.lanes.restype = ctypes.c_int64
    return kernels


@lru_cache
def int8_library() -> ctypes.CDLL:
    """Load the kernels of prediction in 8 bits, and compile them if they are not in the cache.

    Raises:
        KernelsUnavailable: there is no compiler, or it fails.
    """
    kernels = ctypes.CDLL(str(_cached_library(INT8_SOURCE, ())))
    kernels.run.argtypes = [ctypes.c_void_p, *[ctypes.c_int64] * 5]
    kernels.run.restype = None
    kernels.size_of_op.restype = kernels.is_fast.restype = ctypes.c_int64
    return kernels


def _cached_library(source: Path, defines: tuple[str, ...]) -> Path:
    """Return the library for a source, compiler, processor and `defines`; it is compiled on a cache miss."""
    compiler = _find_compiler()
    inputs = [
        *(path.read_text("utf-8") for path in (source, *HEADERS)),
        _compiler_version(compiler),
        _processor(),
        *COMMON_FLAGS,
        *defines,
        str(TARGET_FLAGS),
    ]
    path = _cache_folder() / f"kernels-{hashlib.sha256('/'.join(inputs).encode()).hexdigest()[:16]}.so"
    if not path.exists():
        _build(compiler, source, defines, path)
    return path


def _build(compiler: str, source: Path, defines: tuple[str, ...], path: Path) -> None:
    """Compile to a temporary file and rename it, so that processes that start together never load a partial library."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    first_error = ""
    log.info("compiling the kernels of sparse execution, once for this processor")
    try:
        for flags in TARGET_FLAGS:
            command = [compiler, *COMMON_FLAGS, *flags, *defines, "-o", str(partial), str(source)]
            result = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace")
            if result.returncode == 0:
                partial.replace(path)
                return
            first_error = first_error or result.stderr.strip()
    finally:
        partial.unlink(missing_ok=True)
    reason = first_error.splitlines()[0] if first_error else "no reason given"
    raise KernelsUnavailable(f"{compiler} cannot compile the kernels: {reason}")


def _find_compiler() -> str:
    requested = os.environ.get("CXX")
    found = next(filter(None, map(shutil.which, [requested] if requested else COMPILERS)), None)
    if found is None:
        raise KernelsUnavailable(f"there is no C++ compiler ({requested or ', '.join(COMPILERS)})")
    return found


def _cache_folder() -> Path:
    """Return the cache folder, or a temporary folder of this process if the cache is not writable."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ersparse" / "kernels"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="ersparse-kernels-"))


def _processor() -> str:
    """Return model and instruction sets of the processor, which determine the code that -march=native generates."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return "/".join(
        sorted({line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))})
    )


def _compiler_version(compiler: str) -> str:
    return subprocess.run([compiler, "--version"], capture_output=True, encoding="utf-8", errors="replace").stdout
