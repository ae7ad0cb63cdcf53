"""The table of the first day on a GPU: `python -m benchmarks gpu-report SUMMARY`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

HEADER = "| | images/s | share of the peak | waits of a step | memory, GiB |\n|---|---|---|---|---|"


def table(summary: Mapping[str, Any]) -> str:
    """Return the Markdown of a summary: device, speeds, runs that share the device, and the other checks."""
    checks = summary["checks"]
    device = (checks.get("machine") or {}).get("result") or {}
    lines = [f"Measured on {device.get('name', 'an unknown device')} by `benchmarks/gpu.sh` in {summary['seconds']} s."]
    if summary["rehearsed"]:
        lines.append("This is a rehearsal on a CPU, with tiny networks: its figures mean nothing.")
    lines += ["", HEADER, *_speeds(checks, device.get("bf16_flops")), "", *_abreast(checks), ""]
    return "\n".join([*lines, "| check | outcome |", "|---|---|", *_others(checks)])


def _speeds(checks: Mapping[str, Any], peak: float | None) -> Iterator[str]:
    for name, check in _named(checks, "speed:"):
        found = check["result"]
        if not found:
            yield f"| {name} | {_outcome(check)} | | | |"
            continue
        share = f"{found['images_per_s'] * found['flops_per_image'] / peak:.2f}" if peak else ""
        memory = f"{found['memory_bytes'] / 2**30:.2f}" if found["memory_bytes"] else ""
        waits = "" if found["waits"] is None else found["waits"]
        yield f"| {name} | {found['images_per_s']:,.0f} | {share} | {waits} | {memory} |"


def _abreast(checks: Mapping[str, Any]) -> Iterator[str]:
    rates = {
        int(name): check["result"]["images_per_s"] for name, check in _named(checks, "abreast:") if check["result"]
    }
    if rates:
        yield "| runs of resnet20 on one device | images/s in all | relative to one |\n|---|---|---|"
    for count, rate in sorted(rates.items()):
        relative = f"{rate / rates[1]:.2f}" if 1 in rates else ""
        yield f"| {count} | {rate:,.0f} | {relative} |"


def _others(checks: Mapping[str, Any]) -> Iterator[str]:
    for name, check in checks.items():
        if not name.startswith("speed:"):
            detail = (check["result"] or {}).get("last_line") or (check["result"] or {}).get("line") or ""
            yield f"| {name} | {_outcome(check)}{f' ({detail})' if detail else ''} |"


def _named(checks: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, check in checks.items():
        if name.startswith(prefix):
            yield name.removeprefix(prefix), check


def _outcome(check: Mapping[str, Any]) -> str:
    return str(check["status"]) + (f": {check['error']}" if check["error"] else "")


def main(path: str) -> None:
    print(table(json.loads(Path(path).read_text())))
