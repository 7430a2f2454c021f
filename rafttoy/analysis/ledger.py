"""The ledger of accuracy: one line a run of `benchmarks/accuracy.py`, so that a drift of predictions is seen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from rafttoy.analysis.accuracy import latency_mape_pct, latency_noise_pct, noise_pct, rank_agreement, same_but_pipeline
from rafttoy.analysis.compare import Comparison
from rafttoy.errors import ConfigError

__all__ = ["Entry", "append", "drift", "entry_of", "read"]

_DRIFTED_PCT = 3.0
"""Points of MAPE: less is what two runs on a busy host differ by."""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """`commit` ends with `+` where files differed from it. Errors and noise in percent; `worst_pct` has a sign. Entries before 2026-11-28
    do not know the noise of latencies."""

    date: str
    commit: str
    host: str
    model: str
    cells: int
    repeats: int
    mape_pct: float
    worst_pct: float
    worst_cell: str
    p50_mape_pct: float
    p99_mape_pct: float
    pipelines_right: int
    pipelines_total: int
    noise_pct: float
    p50_noise_pct: float | None = None
    p99_noise_pct: float | None = None

    def __str__(self) -> str:
        return (
            f"{self.date} {self.commit or 'no commit'} on {self.host}: throughput MAPE {self.mape_pct:.1f} % over {self.cells} cells "
            f"(noise {self.noise_pct:.1f} %), worst {self.worst_pct:+.1f} %, p50 {self.p50_mape_pct:.1f} %, p99 {self.p99_mape_pct:.1f} %, "
            f"pipelines {self.pipelines_right} of {self.pipelines_total}"
        )


def entry_of(comparison: Comparison, *, date: str, model: str) -> Entry:
    """What a comparison is remembered by; commit and host are those of its measurements."""
    pairs = comparison.pairs
    manifest, worst, order = pairs[0].measured.manifest, comparison.worst(), rank_agreement(pairs, same_but_pipeline)
    return Entry(
        date=date,
        commit=manifest.get("commit", ""),
        host=manifest.get("host", {}).get("name", ""),
        model=model,
        cells=len(pairs),
        repeats=min(pair.repeats for pair in pairs),
        mape_pct=round(comparison.mape_pct(), 2),
        worst_pct=round(worst.error_pct, 2),
        worst_cell=str(worst.cell),
        p50_mape_pct=round(latency_mape_pct(pairs, "p50"), 2),
        p99_mape_pct=round(latency_mape_pct(pairs, "p99"), 2),
        pipelines_right=order.right,
        pipelines_total=order.total,
        noise_pct=round(noise_pct(pairs), 2),
        p50_noise_pct=round(latency_noise_pct(pairs, "p50"), 2),
        p99_noise_pct=round(latency_noise_pct(pairs, "p99"), 2),
    )


def read(path: Path) -> list[Entry]:
    """Entries, oldest first; none where there is no file. Raises ConfigError naming the file and the line."""
    if not path.exists():
        return []
    entries = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            entries.append(msgspec.json.decode(line, type=Entry))
        except msgspec.DecodeError as error:
            raise ConfigError(f"{path}: line {number} is no entry: {error}") from None
    return entries


def append(path: Path, entry: Entry) -> None:
    with path.open("ab") as file:
        file.write(msgspec.json.encode(entry) + b"\n")


def drift(entries: Sequence[Entry]) -> str:
    """How the last entry compares with the one before it on the same host; empty where there is none."""
    if not entries:
        return ""
    last = entries[-1]
    before = next((entry for entry in reversed(entries[:-1]) if entry.host == last.host), None)
    if before is None:
        return ""
    points = last.mape_pct - before.mape_pct
    word = "worse than" if points > _DRIFTED_PCT else "better than" if points < -_DRIFTED_PCT else "as good as"
    return f"{word} {before.commit or before.date}: MAPE {before.mape_pct:.1f} → {last.mape_pct:.1f} %"
