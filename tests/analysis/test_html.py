"""Curves, plots and pages."""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import msgspec
import pytest

from rafttoy.analysis.ceiling import Ceiling
from rafttoy.analysis.compare import compare
from rafttoy.analysis.compare_text import detail_tables
from rafttoy.analysis.curves import panels
from rafttoy.analysis.html import page
from rafttoy.analysis.plots import draw
from rafttoy.errors import ConfigError
from rafttoy.experiment import Result
from tests.support import make_result


def bound(ops_per_s: float) -> Ceiling:
    return Ceiling(ops_per_s=ops_per_s, latency_us=900.0, batch=1.0, binding="disk", utilisation={}, bounds={})


def latency(mean: float) -> dict[str, float]:
    return {"mean": mean, "p50": mean, "p90": mean, "p99": 2 * mean, "p999": 2 * mean, "max": 3 * mean}


RESULTS: list[Result] = [
    make_result(
        world=world, pipeline=pipeline, conc=conc, seed=seed, ops_per_s=rate * factor, latency_us=latency(1e6 * conc / rate), **more
    )
    for pipeline in ("basic", "async-apply")
    for conc, rate in ((1, 1000.0), (16, 9000.0), (128, 20_000.0))
    for world, seed, factor, more in (
        ("real", 1, 1.0, {}),
        ("real", 2, 1.1, {}),
        ("real", 3, 0.9, {}),
        (
            "sim",
            1,
            1.05,
            {"ceiling": bound(1.3 * rate), "interval": {"ops_per_s": (0.9 * rate, 1.2 * rate), "p50_us": (1.0, 2.0), "p99_us": (1.0, 2.0)}},
        ),
    )
]


class Outline(HTMLParser):
    """Tags that are opened and closed, and everything that could reach for something outside."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []
        self.text: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.references += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "data", "srcset", "action")]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def outline(text: str) -> Outline:
    parser = Outline()
    parser.feed(text)
    parser.close()
    assert parser.open == []
    return parser


# --- curves ---


def test_a_panel_a_configuration_with_its_three_curves() -> None:
    first, second = panels(RESULTS)
    assert (first.title, first.load_name) == ("basic, file+leveldb, grpc, 3 nodes, 256 B", "conc")
    assert second.title.startswith("async-apply")
    measured, predicted, ceiling = first.curves
    assert [curve.name for curve in first.curves] == ["measured", "predicted", "ceiling"]
    assert [(point.load, point.ops_per_s) for point in measured.points] == [(1, 1000.0), (16, 9000.0), (128, 20_000.0)]
    assert (measured.points[0].low, measured.points[0].high) == (900.0, pytest.approx(1100.0))  # the range of the repeats
    assert (predicted.points[0].low, predicted.points[0].high) == (900.0, 1200.0)  # the interval
    assert [point.ops_per_s for point in ceiling.points] == [1300.0, 11_700.0, 26_000.0]


def test_open_loops_and_single_loads() -> None:
    rates = [make_result(conc=0, rate=rate, ops_per_s=rate) for rate in (300.0, 100.0)]
    (panel,) = panels([*rates, make_result(conc=5)])
    assert panel.load_name == "rate"
    assert [point.load for point in panel.curves[0].points] == [100.0, 300.0]


def test_plots_show_every_curve_at_their_heights() -> None:
    text = draw(panels(RESULTS)[0], 80, colour=False)
    assert "\x1b" not in text
    assert all(len(line) <= 80 for line in text.splitlines())
    upper, lower = text.split("mean latency by ops/s")
    for name in ("measured", "predicted", "ceiling"):
        assert name in upper
    assert "26,000" in upper  # the highest point stands at the top
    assert re.search(r"6\.4\d* ms|6\.40 ms", lower)
    assert "\x1b" in draw(panels(RESULTS)[0], 80, colour=True)


def test_plots_of_curves_that_are_flat_or_unbounded() -> None:
    rows = [
        make_result(world="sim", conc=0, rate=rate, ops_per_s=5.0, ceiling=msgspec.structs.replace(bound(5.0), latency_us=None))
        for rate in (10.0, 100.0)
    ]
    assert "ceiling" in draw(panels(rows)[0], 60, colour=False)


# --- pages ---


@pytest.fixture(scope="module")
def text() -> str:
    return page("cells & <errors>", RESULTS)


def test_a_page_is_well_formed_and_needs_nothing_else(text: str) -> None:
    found = outline(text)
    assert not found.tags & {"script", "link", "img", "iframe", "object", "embed"}
    assert all(reference.startswith("#") for reference in found.references)
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", text))
    assert "@import" not in text
    assert "cells & <errors>" in found.text


def test_figures_are_svg_whose_ids_are_their_own(text: str) -> None:
    figures = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(figures) == 2
    for figure in figures:
        root = ET.fromstring(figure)
        assert {"measured", "predicted", "ceiling"} <= {element.text for element in root.iter("{http://www.w3.org/2000/svg}text")}
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    referred = set(re.findall(r'href="#([^"]+)"', text)) | set(re.findall(r"url\(#([^)]+)\)", text))
    assert referred <= set(ids)


def test_figures_of_a_page_are_those_of_its_rows(text: str) -> None:
    cells = outline(text).text
    for shown in ("1,000", "±10 %", "1,050", "900 – 1,200", "+5.0 %", "1,300", "basic file+leveldb grpc conc=1 bytes=256 nodes=3"):  # noqa: RUF001
        assert any(shown in cell for cell in cells), shown
    assert "mean absolute error 5.0 % over 6 cells" in cells
    assert any(cell.startswith("12 of 12 pairs with a gap beyond the noise") for cell in cells)


def test_the_same_results_make_the_same_page(text: str) -> None:
    assert page("cells & <errors>", RESULTS) == text


def test_one_world_alone_has_its_runs_and_curves() -> None:
    found = outline(page("sweep", [result for result in RESULTS if result.world == "sim"]))
    assert "Runs" in found.text
    assert "Cells" not in found.text
    assert "svg" in found.tags


def test_nothing_makes_no_page() -> None:
    with pytest.raises(ConfigError, match="no results"):
        page("empty", [])


def test_without_matplotlib_a_page_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigError, match=r"pip install 'rafttoy\[html\]'"):
        page("curves", RESULTS)
    assert outline(page("one cell", [make_result()])).text  # no curve, no need for it


def test_details_name_every_cell_resource_and_stage() -> None:
    comparison = compare([row for row in RESULTS if row.world == "real"], [row for row in RESULTS if row.world == "sim"])
    cells, resources, stages = detail_tables(comparison.pairs)
    assert (cells.row_count, resources.row_count, stages.row_count) == (6, 6, 1)
    assert [column.header for column in resources.columns] == ["cell", "disk", "loop@1"]
