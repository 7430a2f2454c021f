"""How well a model fits the runs that it was made from: what a prediction's interval is made of."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from rafttoy.cell import Cell, Plan
from rafttoy.member import PeerReport, StageTotals
from rafttoy.observe import BESIDE_LOOP
from rafttoy.ports import KV_BUFFER_BYTES, KV_PAIR_BYTES
from rafttoy.run import Measurement
from rafttoy.sim.model import Calibrated, Disk, Kv, Linear, Link, Model
from rafttoy.worlds import run_sim

__all__ = [
    "Fit",
    "beside_ns",
    "fits_of",
    "flushed_bytes",
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


def typical(training: Training) -> list[tuple[Cell, Measurement]]:
    """Of each cell the run of median throughput (of an even number, the slower one of the two)."""
    runs: dict[Cell, list[Measurement]] = {}
    for cell, measured in training:
        runs.setdefault(cell, []).append(measured)
    return [(cell, sorted(of, key=lambda m: m.ops / m.seconds)[(len(of) - 1) // 2]) for cell, of in runs.items()]


class Fit(msgspec.Struct, frozen=True):
    """One cost beside what it was fitted to. `error_pct` is the root mean square of the relative errors, weighed by what was measured;
    `samples` of them; `share_pct` of the CPU time of all training runs (0 for what is no CPU time)."""

    part: Part
    name: str
    error_pct: float
    samples: int
    share_pct: float = 0.0


def fits_of(model: Model, training: Training) -> list[Fit]:
    """Of every stage, store and link the CPU time in the training runs, predicted from their counts; of the disk the time that a save
    took, predicted by simulating the same cells."""
    reports = [report for _, measurement in training for report in measurement.reports.values()]
    total_ns = sum(report.total_ns for report in reports) or 1
    fits = []
    models = {group: model.on(group) for group in dict.fromkeys(cell.group_name() for cell, _ in training)}
    rows = [(models[cell.group_name()], cell.transport, report) for cell, m in training for report in m.reports.values()]
    for name in sorted({name for report in reports for name in report.stages}):
        part: Part = "kv" if name.startswith("kv.") else "stages"
        with_it = [(_cost_of(own, name), report.stages[name]) for own, _, report in rows if name in report.stages]
        pairs = [(_predicted_ns(cost, stage), float(stage.cpu_ns)) for cost, stage in with_it if cost is not None]
        if pairs:
            fits.append(_fit(part, name, pairs, total_ns))
    for transport in dict.fromkeys(cell.transport for cell, _ in training):
        pairs = [_link_ns(own, transport, report) for own, used, report in rows if used == transport]
        fits.append(_fit("links", transport, pairs, total_ns))
    saves = list(_saves(model, typical(training)))
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


def _cost_of(model: Model, stage: str) -> Linear | None:
    """The cost that a recorded stage is charged; None for one that the model lacks."""
    if stage.startswith("kv."):
        store = model.software.kv.get(stage.removeprefix("kv.").removesuffix(BESIDE_LOOP))
        return store.write if store is not None else None
    return model.software.stage(stage)


def _predicted_ns(cost: Linear, stage: StageTotals) -> float:
    return stage.count * cost.exact_ns(stage.entries / stage.count, stage.nbytes / stage.count) if stage.count else 0.0


def _link_ns(model: Model, transport: str, report: PeerReport) -> tuple[float, float]:
    """(predicted, measured) CPU time of one peer beside its stages: its packets' work on the loop and off it, and compactions."""
    link, counters = model.hardware.links[transport], report.counters
    sent, received = counters.get("packets_sent", 0), counters.get("packets_received", 0)
    nbytes = counters.get("bytes_sent", 0) + counters.get("bytes_received", 0)
    compactions_ns = sum(store.background_byte_ns * flushed_bytes(kind, store, report) for kind, store in model.software.kv.items())
    predicted = beside_ns(link, model.hardware.disk, report) + _packets_ns(link.background, sent + received, nbytes) + compactions_ns
    staged = sum(stage.cpu_ns for stage in report.stages.values())
    return predicted, max(0.0, report.total_ns - staged - counters.get("disk_cpu_ns", 0))


def loop_beside_stages(report: PeerReport) -> float:
    """CPU time of a peer's loop that no stage has, in ns."""
    return max(0.0, report.loop_ns - sum(stage.cpu_ns for name, stage in report.stages.items() if not name.endswith(BESIDE_LOOP)))


def turns(report: PeerReport) -> int:
    """How often a packet woke a peer's loop, at most: what came meanwhile was received with it."""
    stage = report.stages.get("receive")
    return stage.count if stage is not None else 0


def handoffs(report: PeerReport) -> int:
    """To threads of a peer's own: those of its log, and those of its stores."""
    threads = sum(stage.count for name, stage in report.stages.items() if name.endswith(BESIDE_LOOP))
    return threads + (report.counters.get("wal_syncs", 0) if logs_in_files(report) else 0)


def logs_in_files(report: PeerReport) -> bool:
    """Whether a peer's disk threads sync its log; where a store does, they write little else than its identity."""
    return not _FILE_LOGS.isdisjoint(report.stages)


def beside_ns(link: Link, disk: Disk, report: PeerReport) -> float:
    """What packets, wake-ups and hand-offs cost the loop of a peer, by the model."""
    counters = report.counters
    waiting = 1e3 * (link.wake_us * turns(report) + disk.loop_us * handoffs(report))
    sent = _packets_ns(link.send, counters.get("packets_sent", 0), counters.get("bytes_sent", 0))
    return waiting + sent + _packets_ns(link.receive, counters.get("packets_received", 0), counters.get("bytes_received", 0))


def flushed_bytes(kind: str, store: Kv, report: PeerReport) -> float:
    """What a peer's store of that kind wrote out of what was put: whole buffers, or all if it flushes as it goes."""
    puts = _puts(kind, report)
    put = sum(stage.nbytes for stage in puts)
    if not store.flush_bytes or not put:
        return put
    share = put / (put + KV_PAIR_BYTES * sum(stage.entries for stage in puts))
    return report.counters.get("kv_buffers", 0) * KV_BUFFER_BYTES * share


def put_bytes(kind: str, report: PeerReport) -> int:
    """What a peer put into stores of that kind."""
    return sum(stage.nbytes for stage in _puts(kind, report))


def _puts(kind: str, report: PeerReport) -> list[StageTotals]:
    return [stage for name, stage in report.stages.items() if name in (f"kv.{kind}", f"kv.{kind}{BESIDE_LOOP}")]


def _packets_ns(work: Linear, packets: int, nbytes: int) -> float:
    return 1e3 * (work.fixed_us + work.entry_us) * packets + work.byte_ns * nbytes


def _saves(model: Model, training: Training) -> Iterable[tuple[float, float]]:
    """(predicted, measured) median time of a save of the leader, of each training cell that waits for a disk."""
    for cell, measured in training:
        leader = next(iter(measured.reports.values()))
        if leader.counters.get("wal_syncs", 0):
            predicted = run_sim(cell, Plan(proposals=_CHECKED_ROUNDS * cell.conc), model)
            times = [m.reports[leader.id].metrics["append_latency_us"]["p50"] for m in (predicted, measured)]
            yield times[0], times[1]


def _fit(part: Part, name: str, pairs: Sequence[tuple[float, float]], total_ns: float) -> Fit:
    """`pairs` are (predicted, measured)."""
    known = [(predicted, measured) for predicted, measured in pairs if measured > 0]
    weight = sum(measured for _, measured in known)
    square = sum(measured * (predicted / measured - 1) ** 2 for predicted, measured in known) / weight if weight else 0.0
    return Fit(part, name, round(100 * math.sqrt(square), 1), len(known), round(100 * weight / total_ns, 1))
