"""How well a model fits the runs that it was made from: what a prediction's interval is made of."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from rafttoy.analysis.pool import Simulate, one_by_one
from rafttoy.cell import Cell, Plan
from rafttoy.control import PeerReport, StageTotals
from rafttoy.observe import BESIDE_LOOP
from rafttoy.ports import KV_BUFFER_BYTES, KV_PAIR_BYTES
from rafttoy.run import Measurement
from rafttoy.sim.model import Calibrated, Disk, Kv, Linear, Link, Model, interpolated

__all__ = [
    "Fit",
    "beside_ns",
    "buffered_pairs",
    "compactions_ns",
    "cuts_flush",
    "disk_cpu_ns",
    "fits_of",
    "flushed",
    "handoffs",
    "logs_in_files",
    "loop_beside_stages",
    "put_bytes",
    "turns",
    "typical",
    "with_calibrated",
]

Part = Literal["disk", "links", "stages", "kv"]
Training = Sequence[tuple[Cell, Measurement]]

_FILE_LOGS = frozenset(("wal.encode.file", "wal.encode.etcd"))

_CHECKED_ROUNDS = 40
_FLUSHING = 0.3
"""Of a buffer: what a store takes in at most while it writes the last one out (LevelDB, three peers on two cores: 0.8 s, 10,000 to 30,000
pairs of 100,000)."""

_MOMENTS = (np.arange(32) + 0.5) / 32


def runs_of(training: Training) -> dict[Cell, list[Measurement]]:
    """All of each cell."""
    runs: dict[Cell, list[Measurement]] = {}
    for cell, measured in training:
        runs.setdefault(cell, []).append(measured)
    return runs


def typical(training: Training) -> list[tuple[Cell, Measurement]]:
    """Of each cell the run of median throughput (of an even number, the slower one of the two)."""
    return [(cell, sorted(of, key=lambda m: m.ops / m.seconds)[(len(of) - 1) // 2]) for cell, of in runs_of(training).items()]


class Fit(msgspec.Struct, frozen=True):
    """One cost beside what it was fitted to. `error_pct` is the root mean square of the relative errors, weighed by what was measured;
    `samples` of them; `share_pct` of the CPU time of all training runs (0 for what is no CPU time)."""

    part: Part
    name: str
    error_pct: float
    samples: int
    share_pct: float = 0.0


def fits_of(model: Model, training: Training, simulate: Simulate = one_by_one) -> list[Fit]:
    """Of every stage, store and link the CPU time in the training runs, predicted from their counts; of the disk the time that a save
    took, predicted by simulating the same cells."""
    reports = [report for _, measurement in training for report in measurement.reports.values()]
    total_ns = sum(report.total_ns for report in reports) or 1
    fits = []
    models = {group: model.on(group) for group in dict.fromkeys(cell.group_name() for cell, _ in training)}
    rows = [(models[cell.group_name()], cell.transport, report) for cell, m in training for report in m.reports.values()]
    for name in sorted({name for report in reports for name in report.stages}):
        part: Part = "kv" if name.startswith("kv.") else "stages"
        with_it = [(_predicted_ns(own, name, report), report.stages[name]) for own, _, report in rows if name in report.stages]
        pairs = [(predicted, float(stage.cpu_ns)) for predicted, stage in with_it if predicted is not None]
        if pairs:
            fits.append(_fit(part, name, pairs, total_ns))
    for transport in dict.fromkeys(cell.transport for cell, _ in training):
        pairs = [_link_ns(own, transport, report) for own, used, report in rows if used == transport]
        fits.append(_fit("links", transport, pairs, total_ns))
    saves = _saves(model, typical(training), simulate)
    if saves:
        fits.append(msgspec.structs.replace(_fit("disk", "save", saves, 1), share_pct=0.0))
    return fits


def with_calibrated(model: Model, training: Training, fits: Sequence[Fit]) -> Model:
    """The model with its section `calibrated`: the ranges of its training cells, and the errors of its parts. Errors of the costs within a
    part are taken as independent: they add up as squares."""
    cells = [cell for cell, _ in training]
    errors: dict[Part, float] = {}
    for part in dict.fromkeys(fit.part for fit in fits):
        own = [fit for fit in fits if fit.part == part]
        weights = [fit.share_pct or 1e-3 for fit in own]
        square = sum((weight * fit.error_pct) ** 2 for weight, fit in zip(weights, own, strict=True))
        errors[part] = round(min(100.0, math.sqrt(square) / sum(weights)), 1)
    conc, nbytes, nodes = ([getattr(cell, name) for cell in cells] for name in ("conc", "bytes", "nodes"))
    return msgspec.structs.replace(
        model,
        calibrated=Calibrated(
            conc=(min(conc), max(conc)),
            bytes=(min(nbytes), max(nbytes)),
            nodes=(min(nodes), max(nodes)),
            transports=list(dict.fromkeys(cell.transport for cell in cells)),
            storages=list(dict.fromkeys(cell.storage_name() for cell in cells)),
            error_pct=errors,
        ),
    )


def _predicted_ns(model: Model, name: str, report: PeerReport) -> float | None:
    """What the executions of a recorded stage are charged; None for one that the model lacks."""
    stage = report.stages[name]
    times = 1.0
    cost: Linear | None
    if name.startswith("kv."):
        kind = name.removeprefix("kv.").removesuffix(BESIDE_LOOP)
        store = model.software.kv.get(kind)
        cost = store.write if store is not None else None
        if store is not None and store.pairs_at:
            held = buffered_pairs(kind, report, _MOMENTS)
            times = float(np.mean([interpolated(store.pairs_at, store.pairs_times, pairs) for pairs in held]))
    else:
        cost = model.software.stage(name)
    if cost is None:
        return None
    return times * stage.count * cost.exact_ns(stage.entries / stage.count, stage.nbytes / stage.count) if stage.count else 0.0


def _link_ns(model: Model, transport: str, report: PeerReport) -> tuple[float, float]:
    """(predicted, measured) CPU time of one peer beside its stages: its packets' work on the loop and off it, and compactions."""
    link, counters = model.hardware.links[transport], report.counters
    sent, received = counters.get("packets_sent", 0), counters.get("packets_received", 0)
    nbytes = counters.get("bytes_sent", 0) + counters.get("bytes_received", 0)
    packets_ns = _packets_ns(link.background, sent + received, nbytes)
    predicted = beside_ns(link, model.hardware.disk, report) + packets_ns + compactions_ns(model.software.kv, report)
    staged = sum(stage.cpu_ns for stage in report.stages.values())
    return predicted, max(0.0, report.total_ns - staged - disk_cpu_ns(report))


def disk_cpu_ns(report: PeerReport) -> int:
    """CPU time of a peer's saves, on disk threads and on its loop."""
    return report.counters.get("disk_cpu_ns", 0) + report.counters.get("disk_here_ns", 0)


def loop_beside_stages(report: PeerReport) -> float:
    """CPU time of a peer's loop that neither a stage has nor a save that it did itself, in ns."""
    staged = sum(stage.cpu_ns for name, stage in report.stages.items() if not name.endswith(BESIDE_LOOP))
    return max(0.0, report.loop_ns - staged - report.counters.get("disk_here_ns", 0))


def turns(report: PeerReport) -> int:
    """How often a peer's loop turned to packets: what came meanwhile was received with the first."""
    stage = report.stages.get("receive")
    return stage.count if stage is not None else 0


def handoffs(report: PeerReport) -> int:
    """To threads of a peer's own: those of its log, and those of its stores."""
    threads = sum(stage.count for name, stage in report.stages.items() if name.endswith(BESIDE_LOOP))
    counters = report.counters
    return threads + (counters.get("wal_syncs", 0) - counters.get("disk_here", 0) if logs_in_files(report) else 0)


def logs_in_files(report: PeerReport) -> bool:
    """Whether a peer's disk threads sync its log; where a store does, they write little else than its identity."""
    return not _FILE_LOGS.isdisjoint(report.stages)


def beside_ns(link: Link, disk: Disk, report: PeerReport) -> float:
    """What packets, wake-ups and hand-offs cost the loop of a peer, by the model."""
    counters = report.counters
    waiting = 1e3 * (link.wake_us * turns(report) + disk.loop_us * handoffs(report))
    sent = _packets_ns(link.send, counters.get("packets_sent", 0), counters.get("bytes_sent", 0))
    return waiting + sent + _packets_ns(link.receive, counters.get("packets_received", 0), counters.get("bytes_received", 0))


def compactions_ns(kv: Mapping[str, Kv], report: PeerReport) -> float:
    """CPU time of the threads of a peer's stores, by the model."""
    return sum(store.background.exact_ns(*flushed(kind, store, report)) for kind, store in kv.items())


def flushed(kind: str, store: Kv, report: PeerReport) -> tuple[float, float]:
    """(pairs, bytes) that a peer's store of that kind wrote out: whole buffers, or all if it flushes as it goes."""
    puts = _puts(kind, report)
    pairs, nbytes = sum(stage.entries for stage in puts), sum(stage.nbytes for stage in puts)
    if not store.flush_bytes or not pairs:
        return pairs, nbytes
    filled = report.counters.get("kv_buffers", 0)
    most = KV_BUFFER_BYTES / (nbytes / pairs + KV_PAIR_BYTES)
    return filled * most, filled * most * nbytes / pairs


def cuts_flush(kind: str, report: PeerReport) -> bool:
    """Whether a flush of a peer's store of that kind may have been under way when the run's window began or ended: what it cost is then in
    part outside."""
    puts = _puts(kind, report)
    pairs, nbytes = sum(stage.entries for stage in puts), sum(stage.nbytes for stage in puts)
    soon = _FLUSHING * KV_BUFFER_BYTES / (nbytes / max(1, pairs) + KV_PAIR_BYTES)
    filled = report.counters.get("kv_buffers", 0)
    if report.filled_buffers and report.buffered_pairs < soon:
        return True
    return filled > 0 and report.buffered_pairs + pairs - filled * soon / _FLUSHING < soon


def buffered_pairs(kind: str, report: PeerReport, shares: NDArray[Any]) -> NDArray[Any]:
    """How many pairs the buffer of a peer's store of that kind held after `shares` of what was put in the run."""
    puts = _puts(kind, report)
    pairs = sum(stage.entries for stage in puts)
    most = KV_BUFFER_BYTES / (sum(stage.nbytes for stage in puts) / max(1, pairs) + KV_PAIR_BYTES)
    held: NDArray[Any] = (report.buffered_pairs + shares * pairs) % most
    return held


def put_bytes(kind: str, report: PeerReport) -> int:
    """What a peer put into stores of that kind."""
    return sum(stage.nbytes for stage in _puts(kind, report))


def _puts(kind: str, report: PeerReport) -> list[StageTotals]:
    return [stage for name, stage in report.stages.items() if name in (f"kv.{kind}", f"kv.{kind}{BESIDE_LOOP}")]


def _packets_ns(work: Linear, packets: int, nbytes: int) -> float:
    return 1e3 * (work.fixed_us + work.entry_us) * packets + work.byte_ns * nbytes


def _saves(model: Model, training: Training, simulate: Simulate) -> list[tuple[float, float]]:
    """(predicted, measured) median time of a save of the leader, of each training cell that waits for a disk."""
    synced = [(cell, m) for cell, m in training if _leader(m).counters.get("wal_syncs", 0)]
    predicted = simulate([(cell, Plan(proposals=_CHECKED_ROUNDS * cell.conc), model) for cell, _ in synced])
    pairs = zip(predicted, map(_leader, (m for _, m in synced)), strict=True)
    return [(_save_us(of.reports[leader.id]), _save_us(leader)) for of, leader in pairs]


def _leader(measured: Measurement) -> PeerReport:
    return next(iter(measured.reports.values()))


def _save_us(report: PeerReport) -> float:
    return float(report.metrics["append_latency_us"]["p50"])


def _fit(part: Part, name: str, pairs: Sequence[tuple[float, float]], total_ns: float) -> Fit:
    """`pairs` are (predicted, measured)."""
    known = [(predicted, measured) for predicted, measured in pairs if measured > 0]
    weight = sum(measured for _, measured in known)
    square = sum(measured * (predicted / measured - 1) ** 2 for predicted, measured in known) / weight if weight else 0.0
    return Fit(part, name, round(100 * math.sqrt(square), 1), len(known), round(100 * weight / total_ns, 1))
