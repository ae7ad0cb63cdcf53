"""The steps of a folded network as the JSON of sparse network files.

Fields that the first version of the format does not know are left out unless a step needs them.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ersparse.export.folded import FoldedLayer, FoldedStep
from ersparse.kernels.activations import SLOPES, Activation
from ersparse.kernels.pooling import Pool


def fields_of(step: FoldedStep) -> dict[str, Any]:
    """Return the fields of a step; `step_from` is the inverse."""
    return {
        "source": step.source,
        "layer": _layer_fields(step.layer) if step.layer else None,
        "residual": step.residual,
        **_activation_fields(step.activation),
        **_pool_fields(step.pool),
        **_operand_fields(step),
    }


def step_from(fields: dict[str, Any]) -> FoldedStep:
    """Return the step with these fields."""
    layer = fields["layer"] and dict(fields["layer"])
    if layer and isinstance(layer["stride"], int):
        layer["stride"] = [layer["stride"]] * 2
    return FoldedStep(
        fields["source"], FoldedLayer(**layer) if layer else None, fields["residual"], _activation_from(fields),
        _pool_from(fields), fields.get("factor"), fields.get("more", ()), fields.get("unflattened"),
    )  # fmt: skip


def _operand_fields(step: FoldedStep) -> dict[str, Any]:
    fields = {"factor": step.factor, "more": list(step.more) or None, "unflattened": step.unflattened}
    return {name: value for name, value in fields.items() if value is not None}


def _layer_fields(layer: FoldedLayer) -> dict[str, Any]:
    fields = asdict(layer)
    if len(set(layer.stride)) == 1:
        fields["stride"] = layer.stride[0]
    if tuple(layer.dilation) == (1, 1):
        del fields["dilation"]
    if layer.end_padding is None:
        del fields["end_padding"]
    return fields


def _activation_fields(activation: Activation | None) -> dict[str, Any]:
    name = activation.name if activation else ""
    fields: dict[str, Any] = {"relu": name in ("relu", "relu6"), "pool": "", "window": [1, 1]}
    if name == "relu6":
        fields["relu6"] = True
    elif activation and name != "relu":
        fields |= {"activation": name} | ({"slope": activation.slope} if name in SLOPES else {})
    return fields


def _activation_from(fields: dict[str, Any]) -> Activation | None:
    name = fields.get("activation") or ("relu6" if fields.get("relu6") else "relu" if fields["relu"] else "")
    return Activation(name, fields.get("slope", 0.0)) if name else None


def _pool_fields(pool: Pool | None) -> dict[str, Any]:
    if pool is None:
        return {}
    fields: dict[str, Any] = {"pool": pool.kind, "window": pool.window and list(pool.window)}
    standard = Pool(pool.kind, pool.window, pool.window or (1, 1))
    more = {
        "pool_stride": list(pool.stride), "pool_padding": list(pool.padding), "ceil_mode": pool.ceil_mode,
        "counts_padding": pool.counts_padding, "bins": list(pool.bins),
    }  # fmt: skip
    if pool.scale:
        fields["scale"] = list(pool.scale)
    own = {name: getattr(standard, name.removeprefix("pool_")) for name in more}
    return fields | {n: v for n, v in more.items() if v != (list(own[n]) if isinstance(own[n], tuple) else own[n])}


def _pool_from(fields: dict[str, Any]) -> Pool | None:
    if not fields["pool"]:
        return None
    window = fields["window"] and _pair(fields["window"])
    return Pool(
        fields["pool"], window, _pair(fields.get("pool_stride") or window or (1, 1)),
        _pair(fields.get("pool_padding", (0, 0))), fields.get("ceil_mode", False), fields.get("counts_padding", True),
        _pair(fields.get("bins", (1, 1))), _pair(fields["scale"]) if "scale" in fields else None,
    )  # fmt: skip


def _pair(numbers: Any) -> tuple[int, int]:
    height, width = numbers
    return height, width
