"""Sparse networks that start as Erdős–Rényi random graphs, and what becomes of them."""

from importlib import import_module
from typing import Any

_WHERE = {
    "FixedMask": "ersparse.lightning.callbacks:FixedMask",
    "UserError": "ersparse.errors:UserError",
    "keep_masks": "ersparse.sparse.mask:keep",
    "load": "ersparse.api:load",
    "load_images": "ersparse.api:load_images",
    "load_sparse": "ersparse.export.predictor:load_sparse",
    "run": "ersparse.runs.run:run",
    "sparsify": "ersparse.api:sparsify",
}
__all__ = list(_WHERE)


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that `import ersparse` does not import PyTorch."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _WHERE[name].partition(":")
    return getattr(import_module(module), attribute)
