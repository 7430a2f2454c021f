"""Results as text: JSON lines, CSV, Go benchmark lines, tables. Nothing here prints."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from rich import box
from rich.table import Table

from rafttoy.analysis.compare import Comparison
from rafttoy.cell import Cell
from rafttoy.experiment import Result

__all__ = [
    "comparison_table",
    "csv_header",
    "csv_row",
    "gobench_header",
    "gobench_line",
    "human_count",
    "human_us",
    "json_line",
    "metrics_table",
    "name_parts",
    "results_table",
]

_PERCENTILES = ("mean", "p50", "p90", "p99", "p999", "max")
_DIMENSIONS = ("pipeline", "wal", "engine", "storage", "transport", "arrival", "nodes", "bytes", "conc", "rate")
"""Of a cell, in the order of their columns: what is run, then its load."""

_CSV = (
    *("world", "pipeline", "wal", "engine", "storage", "transport", "conc", "rate", "arrival", "bytes", "nodes", "seed"),
    *("ops", "seconds", "ops_per_s", "mb_per_s"),
    *(f"latency_{name}_us" for name in _PERCENTILES),
    *("binding", "late", "verified", "partial", "error_pct"),
)

# --- one object, one row ------------------------------------------------------------------------------------------------------


def json_line(result: Result) -> str:
    """The whole result; `error_pct`, `ceiling` and `interval` only where there is one."""
    document: dict[str, Any] = msgspec.to_builtins(result)
    for name in ("error_pct", "ceiling", "interval"):
        if document[name] is None:
            del document[name]
    return msgspec.json.encode(document).decode()


def _csv_line(fields: Iterable[Any]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(fields)
    return text.getvalue()


def csv_header() -> str:
    return _csv_line(_CSV)


def csv_row(result: Result) -> str:
    """A field that has no value is empty; booleans are `true` and `false`."""
    flat: dict[str, Any] = msgspec.to_builtins(result) | {f"latency_{name}_us": value for name, value in result.latency_us.items()}
    values = (flat.get(name) for name in _CSV)
    return _csv_line("" if value is None else str(value).lower() if isinstance(value, bool) else value for value in values)


# --- Go benchmark lines ----------------------------------------------------------------------------------------------------------
# https://go.dev/design/14313-benchmark-format, which benchstat reads.


def gobench_header(host: dict[str, Any]) -> str:
    """Configuration lines, as Go prints them, and which way the units point that benchstat does not know."""
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(host["machine"], host["machine"])
    lines = [f"goos: {host['system'].lower()}", f"goarch: {machine}", "pkg: rafttoy"]
    lines += [f"cpu: {host['cpu']}"] if host["cpu"] else []
    return "\n".join([*lines, "Unit p50-ns better=lower", "Unit p99-ns better=lower"])


def name_parts(worlds: Sequence[str], cells: Sequence[Cell]) -> tuple[str, ...]:
    """What a line's name must tell beyond load and bytes, to be of one cell only: all that differs within the grid."""
    parts = ("world",) if len(set(worlds)) > 1 else ()
    return (*parts, *(name for name in varying(cells) if name not in ("conc", "rate", "bytes")))


def gobench_line(result: Result, parts: Sequence[str], cores: int) -> str:
    """`ns/op` is the mean latency (inverse throughput is bytes / (MB/s)), `MB/s` counts payload, 10^6 bytes each."""
    loop, load = ("Open", f"rate={result.rate:g}") if result.rate else ("Closed", f"conc={result.conc}")
    path = "".join(f"/{name}={getattr(result, name)}" for name in parts)
    latency = result.latency_us
    values = [
        f"{result.ops:8d}",
        f"{latency['mean'] * 1e3:10.0f} ns/op",
        f"{result.mb_per_s:8.2f} MB/s",
        f"{latency['p50'] * 1e3:10.0f} p50-ns",
        f"{latency['p99'] * 1e3:10.0f} p99-ns",
    ]
    return "\t".join([f"BenchmarkRaft{loop}{path}/{load}/bytes={result.bytes}-{cores}", *values])


# --- for humans ------------------------------------------------------------------------------------------------------------------


def human_us(us: float) -> str:
    """Three digits and a unit: `118 µs`, `1.24 ms`, `2.05 s`."""
    scale, unit = (1.0, "µs") if us < 999.5 else (1e3, "ms") if us < 999.5e3 else (1e6, "s")
    value = us / scale
    return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f} {unit}"


def human_count(value: float) -> str:
    """`12,345`; below 100 with a decimal."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def varying(cells: Sequence[Cell]) -> list[str]:
    """The dimensions that differ within the grid, in the order of `_DIMENSIONS`. Of a combined store, `wal` and `engine` say nothing
    that `storage` does not."""
    out = []
    for name in _DIMENSIONS:
        asked = [cell for cell in cells if cell.storage == "split"] if name in ("wal", "engine") else cells
        if len({getattr(cell, name) for cell in asked}) > 1:
            out.append(name)
    return out


def _columns(cells: Sequence[Cell]) -> tuple[list[str], str]:
    """(dimensions that get a column, the others in one line)."""
    differ = varying(cells)
    loads = {"rate" if cell.rate else "conc" for cell in cells}
    columns = [name for name in _DIMENSIONS if name in differ or name in loads]
    first = cells[0]
    same = {
        "pipeline": first.pipeline,
        "storage": first.storage_name(),
        "transport": first.transport,
        "arrival": first.arrival if first.rate else "",
        "nodes": f"{first.nodes} nodes",
        "bytes": f"{first.bytes} B",
    }
    if {"wal", "engine"} & set(differ) and "storage" not in differ:
        same["storage"] = " ".join(f"{name} {getattr(first, name)}" for name in ("wal", "engine") if name not in differ)
    return columns, ", ".join(text for name, text in same.items() if text and name not in columns)


def _dimension(cell: Cell, name: str) -> str:
    if name in ("wal", "engine") and cell.storage != "split":
        return ""
    value = getattr(cell, name)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _table(cells: Sequence[Cell], columns: Sequence[str], headings: Sequence[str], title: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="", box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in columns:
        number = isinstance(getattr(cells[0], name), int | float)
        table.add_column(name, justify="right" if number else "left", no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "binding" else "right", no_wrap=True)
    return table


def results_table(results: Sequence[Result]) -> Table:
    """One row a run."""
    cells = [result.cell() for result in results]
    columns, same = _columns(cells)
    worlds = sorted({result.world for result in results})
    table = _table(cells, columns, ["ops/s", "MB/s", "mean", "p50", "p99", "max", "binding"], f"{' and '.join(worlds)}: {same}")
    for result, cell in zip(results, cells, strict=True):
        table.add_row(
            *(_dimension(cell, name) for name in columns),
            human_count(result.ops_per_s),
            f"{result.mb_per_s:.2f}",
            *(human_us(result.latency_us[name]) for name in ("mean", "p50", "p99", "max")),
            result.binding + (" (partial)" if result.partial else ""),
        )
    return table


def metrics_table(title: str, metrics: Mapping[str, Mapping[str, float]]) -> Table:
    """The histograms of one run."""
    table = Table(title=title, title_justify="left", title_style="", box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    names = ("count", "mean", "stddev", "p50", "p90", "p99", "p999", "max")
    table.add_column("metric", no_wrap=True)
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for metric, values in metrics.items():
        table.add_row(metric, *(human_count(values[name]) if name in values else "" for name in names))
    return table


def comparison_table(comparison: Comparison) -> Table:
    """One row a cell; of repeats the medians."""
    cells = [pair.cell for pair in comparison.pairs]
    columns, same = _columns(cells)
    headings = [
        "measured ops/s",
        "predicted ops/s",
        "error",
        "ceiling",
        "p50 measured",
        "p50 predicted",
        "p99 measured",
        "p99 predicted",
        "binding",
    ]
    table = _table(cells, columns, headings, same)
    for pair in comparison.pairs:
        table.add_row(
            *(_dimension(pair.cell, name) for name in columns),
            human_count(pair.measured.ops_per_s) + (f" ±{pair.spread_pct:.0f} %" if pair.repeats > 1 else ""),
            human_count(pair.predicted.ops_per_s),
            f"{pair.error_pct:+.1f} %",
            human_count(pair.predicted.ceiling.ops_per_s) if pair.predicted.ceiling is not None else "",
            *(human_us(side.latency_us[name]) for name in ("p50", "p99") for side in (pair.measured, pair.predicted)),
            pair.binding,
        )
    return table
