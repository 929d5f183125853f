"""Interleaved measurements: contestants take turns, ratios are computed within a turn, results are medians over turns.

On a shared machine, the same code may run at half its speed a minute later. Within a turn the contestants run seconds
after each other, so their ratios are reliable even if their absolute figures are not.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

Rates = dict[str, list[float]]


def take_turns(contestants: Mapping[str, Callable[[], float]], turns: int, warm_up: int = 1) -> Rates:
    """Call each contestant once per turn and return its rates by name. The order rotates from turn to turn.

    A contestant returns its rate (larger is better). The first `warm_up` turns are discarded.
    """
    names = list(contestants)
    rates: Rates = {name: [] for name in names}
    for turn in range(warm_up + turns):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            rate = contestants[name]()
            if turn >= warm_up:
                rates[name].append(rate)
    return rates


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return the "median" and the quartiles, "q1" and "q3", of `values`."""
    if len(values) < 2:
        return {"median": values[0], "q1": values[0], "q3": values[0]}
    q1, _, q3 = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": statistics.median(values), "q1": q1, "q3": q3}


def ratios(rates: Rates, name: str, against: str) -> dict[str, float]:
    """Return the median and the quartiles of the ratio `name` / `against` over the turns."""
    return spread([a / b for a, b in zip(rates[name], rates[against], strict=True)])


def table(rates: Rates, ours: str, unit: str) -> str:
    """Format a line per contestant: its rate and, unless it is `ours`, the ratio of the rate of `ours` to its rate.

    Both are shown as median and quartiles. `unit` is the heading of the rates.
    """
    width = max(len(name) for name in rates)
    lines = [f"{'':{width}}  {unit:>9}  {'quartiles':>15}  {'ours is':>9}  {'quartiles':>13}"]
    for name, values in rates.items():
        rate = spread(values)
        line = f"{name:{width}}  {rate['median']:9,.0f}  {rate['q1']:7,.0f} {rate['q3']:7,.0f}"
        if name != ours:
            ratio = ratios(rates, ours, name)
            line += f"  {ratio['median']:7.2f} ×  {ratio['q1']:6.2f} {ratio['q3']:6.2f}"
        lines.append(line)
    return "\n".join(lines)


def report(rates: Rates, ours: str) -> dict[str, Any]:
    """Return the figures of `table` as plain values.

    Returns:
        a dict of "rates", contestant → `spread` of its rates; "ratios", "OURS / CONTESTANT" → the result of `ratios`;
        and "turns", contestant → its rate in each turn.
    """
    return {
        "rates": {name: spread(values) for name, values in rates.items()},
        "ratios": {f"{ours} / {name}": ratios(rates, ours, name) for name in rates if name != ours},
        "turns": {name: [round(value, 1) for value in values] for name, values in rates.items()},
    }


def environment(packages: Sequence[str]) -> dict[str, Any]:
    """Return the processor, cores, load, system, and versions of Python and of the `packages` that are installed."""
    installed = {found.name.lower(): found.version for found in metadata.distributions()}
    versions = {package: installed[package] for package in packages if package in installed}
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": round(os.getloadavg()[0], 2),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": versions,
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()


def write_json(path: Path, results: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")
