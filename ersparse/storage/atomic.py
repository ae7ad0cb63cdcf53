"""Atomic writes: a file is complete or absent."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any


def write_bytes(path: Path, data: bytes | memoryview) -> None:
    """Write `data` to a temporary file beside `path`, flush it to disk, and rename it to `path`.

    Nothing is left behind if the write fails.

    Raises:
        OSError: the file cannot be written.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, atomically.

    Bytes of a path that are not characters of the locale, which Python reads as surrogates, are written as they are.
    """
    write_bytes(path, text.encode(errors="surrogateescape"))


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON, atomically; numbers that are not finite become null."""
    text = json.dumps(finite(value), indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    try:
        text.encode()
    except UnicodeEncodeError:  # JSON has to be valid UTF-8; escaped, it is read back as it was
        text = json.dumps(finite(value), indent=1, allow_nan=False) + "\n"
    write_text(path, text)


def finite(value: Any) -> Any:
    """Return `value` with every number that is not finite replaced by None."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
