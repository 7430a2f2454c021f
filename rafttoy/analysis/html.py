"""Results as one HTML file that needs nothing else: no script, no font, no network. Curves are SVG in line."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from rafttoy.analysis.accuracy import Residual, latency_mape_pct, noise_text, rank_agreement, residuals, same_but_pipeline
from rafttoy.analysis.compare import Comparison, Pair, compare
from rafttoy.analysis.curves import Curve, Panel, panels
from rafttoy.analysis.formats import human_count, human_us
from rafttoy.errors import ConfigError
from rafttoy.experiment import Result

__all__ = ["page"]

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 80rem; padding: 0 1rem; color: #1a1a1a; background: #fff }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2.2rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.87rem }
th, td { padding: 0.22rem 0.6rem; text-align: right; border-bottom: 1px solid #e2e2e2; white-space: nowrap }
th { background: #f5f5f5; position: sticky; top: 0 } .text { text-align: left } .dim { color: #777 }
.wrong { background: #fdecea } .good { background: #edf7ed }
.scroll { overflow-x: auto } figure { margin: 1rem 0 } svg { max-width: 100%; height: auto }
dl { display: grid; grid-template-columns: max-content auto; gap: 0.15rem 1rem } dt { color: #777 } dd { margin: 0 }
"""

_COLOURS = {"measured": "#1f5fa8", "predicted": "#c8501e", "ceiling": "#7a7a7a"}
_LINES = {"measured": "-", "predicted": "--", "ceiling": ":"}
_GOOD_PCT, _WRONG_PCT = 10.0, 25.0


def page(title: str, results: Sequence[Result]) -> str:
    """The whole file. Raises ConfigError if there is nothing to show, or where matplotlib, which draws the curves, is not installed."""
    if not results:
        raise ConfigError("no results: nothing to make a page of")
    comparison = compare([result for result in results if result.world == "real"], [result for result in results if result.world == "sim"])
    parts = [f"<h1>{escape(title)}</h1>"]
    if comparison.pairs:
        parts += [_summary(comparison), _pairs(comparison.pairs), _utilisation(comparison.pairs), _residuals(residuals(comparison.pairs))]
    parts.append(_curves(panels(results)))
    if alone := comparison.unpaired():
        parts.append(_results(alone))
    parts.append(_made(results))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(filter(None, parts))
        + "\n</body>\n</html>\n"
    )


# --- parts ---


def _table(heading: str, columns: Sequence[str], rows: Iterable[Sequence[str]], text_columns: int = 1) -> str:
    """`rows` are of escaped cells; one that begins with a class in braces, `{wrong}`, has that class."""
    head = "".join(
        f'<th class="text">{escape(name)}</th>' if i < text_columns else f"<th>{escape(name)}</th>" for i, name in enumerate(columns)
    )
    body = "\n".join("<tr>" + "".join(_cell(cell, i < text_columns) for i, cell in enumerate(row)) + "</tr>" for row in rows)
    return f'<h2>{escape(heading)}</h2>\n<div class="scroll"><table>\n<tr>{head}</tr>\n{body}\n</table></div>'


def _cell(text: str, left: bool) -> str:
    match = re.match(r"\{(\w+)\}", text)
    classes = [*(["text"] if left else []), *([match[1]] if match else [])]
    shown = text[match.end() :] if match else text
    return f'<td class="{" ".join(classes)}">{shown}</td>' if classes else f"<td>{shown}</td>"


def _error(pct: float) -> str:
    mark = "{good}" if abs(pct) <= _GOOD_PCT else "{wrong}" if abs(pct) > _WRONG_PCT else ""
    return f"{mark}{pct:+.1f} %"


def _summary(comparison: Comparison) -> str:
    pairs = comparison.pairs
    worst = comparison.worst()
    facts = {
        "throughput": f"mean absolute error {comparison.mape_pct():.1f} % over {len(pairs)} cells",
        "worst": f"{worst.error_pct:+.1f} % ({worst.cell})",
        "p50": f"mean absolute error {latency_mape_pct(pairs, 'p50'):.1f} %",
        "p99": f"mean absolute error {latency_mape_pct(pairs, 'p99'):.1f} %",
        "noise": noise_text(pairs),
        "order of cells": f"{rank_agreement(pairs)} pairs with a gap beyond the noise are predicted in the measured order",
        "order of pipelines": f"{rank_agreement(pairs, same_but_pipeline)}",
    }
    return "<dl>" + "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in facts.items()) + "</dl>"


def _pairs(pairs: Sequence[Pair]) -> str:
    columns = ["cell", "binding", "measured ops/s", "predicted", "nine in ten within", "error", "ceiling"]
    columns += [f"{name} {side}" for name in ("mean", "p50", "p99") for side in ("measured", "predicted")]
    columns += ["batch measured", "predicted"]
    rows = []
    for pair in pairs:
        measured, predicted = pair.measured, pair.predicted
        interval = predicted.interval["ops_per_s"] if predicted.interval is not None else None
        rows.append(
            [
                escape(str(pair.cell)),
                escape(pair.binding),
                human_count(measured.ops_per_s) + (f' <span class="dim">±{pair.spread_pct:.0f} %</span>' if pair.repeats > 1 else ""),
                human_count(predicted.ops_per_s),
                f"{human_count(interval[0])} – {human_count(interval[1])}" if interval is not None else "",  # noqa: RUF001
                _error(pair.error_pct),
                human_count(predicted.ceiling.ops_per_s) if predicted.ceiling is not None else "",
                *(human_us(side.latency_us[name]) for name in ("mean", "p50", "p99") for side in (measured, predicted)),
                *(f"{side.batch['mean']:.1f}" for side in (measured, predicted)),
            ]
        )
    return _table("Cells", columns, rows, 2)


def _utilisation(pairs: Sequence[Pair]) -> str:
    names = list(dict.fromkeys(name for pair in pairs for name in (*pair.measured.utilisation, *pair.predicted.utilisation)))
    columns = ["cell", *(f"{name} {side}" for name in names for side in ("measured", "predicted"))]
    rows = [
        [
            escape(str(pair.cell)),
            *(_percent(side.utilisation.get(name)) for name in names for side in (pair.measured, pair.predicted)),
        ]
        for pair in pairs
    ]
    return _table("How busy each resource is", columns, rows)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f} %"


def _residuals(rows: Sequence[Residual]) -> str:
    if not rows:
        return ""
    columns = ["stage", "share of measured", "measured µs a proposal", "predicted", "error"]
    cells = [
        [escape(row.stage), f"{row.share_pct:.1f} %", f"{row.measured_us:.3f}", f"{row.predicted_us:.3f}", _error(row.error_pct)]
        for row in rows
    ]
    return _table("Where the error comes from: CPU time by stage, over all cells", columns, cells)


def _results(results: Sequence[Result]) -> str:
    columns = ["world", "cell", "binding", "ops/s", "MB/s", "ceiling", "mean", "p50", "p99", "max", "batch"]
    rows = [
        [
            result.world,
            escape(str(result.cell())),
            escape(result.binding),
            human_count(result.ops_per_s),
            f"{result.mb_per_s:.2f}",
            human_count(result.ceiling.ops_per_s) if result.ceiling is not None else "",
            *(human_us(result.latency_us[name]) for name in ("mean", "p50", "p99", "max")),
            f"{result.batch['mean']:.1f}",
        ]
        for result in results
    ]
    return _table("Runs", columns, rows, 3)


def _made(results: Sequence[Result]) -> str:
    """Where the results are from: each different manifest once."""
    manifests: dict[str, dict[str, Any]] = {}
    for result in results:
        manifests.setdefault(repr(result.manifest), result.manifest)
    parts = []
    for made in manifests.values():
        facts = {
            "host": ", ".join(f"{name} {value}" for name, value in made.get("host", {}).items()),
            "versions": ", ".join(f"{name} {value}" for name, value in made.get("versions", {}).items()),
            "disk": ", ".join(f"{name} {value}" for name, value in made.get("disk", {}).items() if value not in (None, "", [])),
            "commit": made.get("commit", ""),
            "flags": " ".join(f"--{name} {value}" for name, value in made.get("flags", {}).items()),
        }
        parts.append("<dl>" + "".join(f"<dt>{name}</dt><dd>{escape(str(text))}</dd>" for name, text in facts.items() if text) + "</dl>")
    return "<h2>Made with</h2>\n" + "\n".join(parts)


# --- curves ---


def _curves(shown: Sequence[Panel]) -> str:
    if not shown:
        return ""
    try:
        import matplotlib as mpl  # noqa: PLC0415  # optional, and slow to import
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError:
        raise ConfigError("a page with curves needs matplotlib: pip install 'rafttoy[html]'") from None
    out = ["<h2>Curves</h2>"]
    for i, panel in enumerate(shown):
        # text stays text; ids that elements refer to are of this figure alone, and the same in every run
        with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": f"panel {i}", "font.family": "sans-serif", "font.size": 9}):
            figure = Figure(figsize=(11, 3.6), layout="constrained")
            _draw(figure, panel)
            svg = io.StringIO()
            figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
        out.append(f"<figure><figcaption>{escape(panel.title)}</figcaption>{_bare(svg.getvalue(), i)}</figure>")
    return "\n".join(out)


def _draw(figure: Any, panel: Panel) -> None:
    by_load, by_throughput = figure.subplots(1, 2)
    for curve in panel.curves:
        style = {"color": _COLOURS[curve.name], "linestyle": _LINES[curve.name], "label": curve.name, "marker": "o", "markersize": 3}
        loads = [point.load for point in curve.points]
        by_load.plot(loads, [point.ops_per_s for point in curve.points], **style)
        _band(by_load, curve, loads)
        bounded = [point for point in curve.points if point.latency_us]
        by_throughput.plot([point.ops_per_s for point in bounded], [(point.latency_us or 0) / 1e3 for point in bounded], **style)
    by_load.set_xscale("log")
    loads = sorted({point.load for curve in panel.curves for point in curve.points})
    by_load.set_xticks(loads[:: max(1, len(loads) // 9)], [f"{load:g}" for load in loads[:: max(1, len(loads) // 9)]])
    by_load.minorticks_off()
    by_load.set_ylim(bottom=0)
    by_load.set_xlabel("proposals in flight" if panel.load_name == "conc" else "proposals offered a second")
    by_load.set_ylabel("ops/s")
    by_throughput.set_yscale("log")
    by_throughput.set_xlim(left=0)
    by_throughput.set_xlabel("ops/s")
    by_throughput.set_ylabel("mean latency, ms")
    for axes in (by_load, by_throughput):
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
        axes.grid(visible=True, color="#e6e6e6", linewidth=0.6)
    by_throughput.yaxis.set_minor_formatter(lambda value, _: f"{value:,g}")
    by_throughput.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    by_load.legend(frameon=False)


def _band(axes: Any, curve: Curve, loads: Sequence[float]) -> None:
    """The range of repeats, or the interval of a prediction."""
    if any(point.low < point.high for point in curve.points):
        axes.fill_between(
            loads,
            [point.low for point in curve.points],
            [point.high for point in curve.points],
            color=_COLOURS[curve.name],
            alpha=0.15,
            linewidth=0,
        )


def _bare(svg: str, number: int) -> str:
    """Only the element itself, without metadata, its ids unlike those of other figures."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    ids = set(re.findall(r'\bid="([^"]+)"', svg))
    return re.sub(
        r'(\bid="|href="#|url\(#)([^")]+)', lambda found: found[1] + (f"f{number}-{found[2]}" if found[2] in ids else found[2]), svg
    )
