"""The ledger is appended to, read back, and shows drift."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from rafttoy.analysis.compare import compare
from rafttoy.analysis.ledger import Entry, append, drift, entry_of, read
from rafttoy.errors import ConfigError
from tests.support import make_result

ROOT = Path(__file__).resolve().parents[2]

ENTRY = Entry(
    date="2026-01-02",
    commit="0123456789ab",
    host="lab",
    model="lab",
    cells=60,
    repeats=3,
    mape_pct=8.0,
    worst_pct=-31.0,
    worst_cell="basic file+leveldb tcp conc=1 bytes=256 nodes=3",
    p50_mape_pct=9.0,
    p99_mape_pct=22.0,
    pipelines_right=40,
    pipelines_total=42,
    noise_pct=3.0,
)


def later(**changes: object) -> Entry:
    return msgspec.structs.replace(ENTRY, commit="ba9876543210", **changes)


def test_what_is_kept_of_a_comparison() -> None:
    made = {"commit": "abc", "host": {"name": "lab"}, "flags": {}}
    real = [
        make_result(pipeline=p, ops_per_s=rate, seed=s, latency_us={"p50": 10.0, "p99": 10.0 + s}, manifest=made)
        for p, rate in (("basic", 100.0), ("async-apply", 200.0))
        for s in (-1, 1)
    ]
    sim = [
        make_result(world="sim", pipeline=p, ops_per_s=rate, latency_us={"p50": 9.0, "p99": 9.0})
        for p, rate in (("basic", 110.0), ("async-apply", 160.0))
    ]
    entry = entry_of(compare(real, sim), date="2026-01-02", model="lab")
    assert (entry.commit, entry.host, entry.model, entry.cells, entry.repeats) == ("abc", "lab", "lab", 2, 2)
    assert (entry.mape_pct, entry.worst_pct, entry.noise_pct) == (15.0, -20.0, 0.0)
    assert (entry.p50_mape_pct, entry.p99_mape_pct, entry.p50_noise_pct, entry.p99_noise_pct) == (10.0, 10.0, 0.0, 10.0)
    assert (entry.pipelines_right, entry.pipelines_total) == (1, 1)
    assert entry.worst_cell.startswith("async-apply ")


def test_lines_are_added_and_read_back(tmp_path: Path) -> None:
    book = tmp_path / "ledger.jsonl"
    assert read(book) == []
    append(book, ENTRY)
    append(book, later(mape_pct=7.5))
    assert read(book) == [ENTRY, later(mape_pct=7.5)]
    book.write_text(book.read_text() + "{}\n")
    with pytest.raises(ConfigError, match=r"ledger\.jsonl: line 3 is no entry: "):
        read(book)


@pytest.mark.parametrize(("mape_pct", "word"), [(7.0, "as good as"), (9.5, "as good as"), (4.0, "better than"), (12.5, "worse than")])
def test_drift_is_told_against_the_last_on_the_same_host(mape_pct: float, word: str) -> None:
    elsewhere = later(host="other", mape_pct=90.0)
    assert drift([ENTRY, elsewhere, later(mape_pct=mape_pct)]) == f"{word} 0123456789ab: MAPE 8.0 → {mape_pct:.1f} %"


def test_the_first_of_a_host_has_nothing_to_drift_from() -> None:
    assert drift([]) == ""
    assert drift([ENTRY]) == ""
    assert drift([ENTRY, later(host="other")]) == ""


def test_the_shipped_ledger_can_be_read() -> None:
    for entry in read(ROOT / "models/ledger.jsonl"):
        assert entry.cells >= 48
        assert entry.repeats >= 3
