"""Sparse neural networks that start as Erdős–Rényi random graphs: draw, repair, train, rewire, prune, record.

The public names are imported on first use, so that `import ersparse` does not import PyTorch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ersparse.api import load, load_images
    from ersparse.errors import UserError
    from ersparse.export.predictor import load_sparse
    from ersparse.lightning.callbacks import FixedMask
    from ersparse.lightning.callbacks.own_edge_popup import EdgePopup
    from ersparse.lightning.callbacks.own_module import Prune, Rewire
    from ersparse.loops.edge_popup import edge_popup
    from ersparse.loops.prune import prune
    from ersparse.loops.rewire import rewire
    from ersparse.loops.sparsify import sparsify
    from ersparse.loops.summary import summary
    from ersparse.runs.run import run
    from ersparse.sparse.keep import keep as keep_masks
    from ersparse.sparse.mask import remove_masks

__all__ = [
    "EdgePopup",
    "FixedMask",
    "Prune",
    "Rewire",
    "UserError",
    "edge_popup",
    "keep_masks",
    "load",
    "load_images",
    "load_sparse",
    "prune",
    "remove_masks",
    "rewire",
    "run",
    "sparsify",
    "summary",
]

_TARGETS = {
    "EdgePopup": "ersparse.lightning.callbacks.own_edge_popup:EdgePopup",
    "FixedMask": "ersparse.lightning.callbacks:FixedMask",
    "Prune": "ersparse.lightning.callbacks.own_module:Prune",
    "Rewire": "ersparse.lightning.callbacks.own_module:Rewire",
    "UserError": "ersparse.errors:UserError",
    "edge_popup": "ersparse.loops.edge_popup:edge_popup",
    "keep_masks": "ersparse.sparse.keep:keep",
    "load": "ersparse.api:load",
    "load_images": "ersparse.api:load_images",
    "load_sparse": "ersparse.export.predictor:load_sparse",
    "prune": "ersparse.loops.prune:prune",
    "remove_masks": "ersparse.sparse.mask:remove_masks",
    "rewire": "ersparse.loops.rewire:rewire",
    "run": "ersparse.runs.run:run",
    "sparsify": "ersparse.loops.sparsify:sparsify",
    "summary": "ersparse.loops.summary:summary",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562)."""
    if name not in _TARGETS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _TARGETS[name].partition(":")
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
