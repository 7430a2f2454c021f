"""What work costs the processors, from the stage records and counters of training runs.

Each stage's cost is fitted as a + b · entries + c · bytes, by non-negative least squares on relative errors (Lawson & Hanson 1974), and
bent by the number of entries; what the loop's thread spent beside its stages is put down to packets, wake-ups and hand-offs, what other
threads spent to the stores' compactions and the transport's own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from rafttoy.analysis.fits import (
    buffered_pairs,
    compactions_ns,
    cuts_flush,
    disk_cpu_ns,
    flushed,
    handoffs,
    logs_in_files,
    loop_beside_stages,
    put_bytes,
    turns,
)
from rafttoy.cell import Cell
from rafttoy.control import PeerReport
from rafttoy.observe import BESIDE_LOOP
from rafttoy.ports import KV_BUFFER_BYTES
from rafttoy.run import Measurement
from rafttoy.sim.model import Disk, Kv, Linear, LinkWork, interpolated

__all__ = ["SPREAD_PERCENT", "fit_links", "fit_rows", "fit_software", "fit_spread", "fit_store", "with_background", "with_cpu"]

_FEWEST_SAMPLES = 8
_RARE = 0.005
"""Of the samples of the most usual number of entries. What is rarer is another kind of work under the same name: the write of one pair that
makes an engine durable before its log is cut takes 2 ms, not 20 µs."""

_STRAY = 20.0
"""An execution that takes this many times as long as half of its kind was stopped, and by nothing that it does itself."""

SPREAD_PERCENT = [*map(float, range(0, 100, 5)), 97.5, 99.0, 99.5, 99.9, 99.97, 100.0]
_FEWEST_ALIKE = 50

_OTHER_SIZE = 0.1
"""What the size of proposals that few training cells have weighs in the bend of a cost, beside the one that most have."""

_DEARER = 1.5
"""What is this many times dearer with fewer entries is such work, too, however often it was met."""

_PAIR_AS_BYTES = 230
"""A pair that LevelDB flushes costs as much CPU time as so many bytes: 64 MiB in pairs of 256 B took 390 to 490 ms, of 4 KiB 200 to 310."""

_PAIRS_AT = tuple(float(1 << bits) for bits in range(10, 19, 2))
_PIECES, _FEWEST_A_PIECE = 8, 4
"""Of a run, from an empty buffer to a full one."""


def fit_software(reports: Sequence[PeerReport]) -> tuple[dict[str, Linear], dict[str, Kv]]:
    """(stages, stores) of peers."""
    names = sorted({name for report in reports for name in report.stages})
    stages = {name: fit_rows([_samples(report, name) for report in reports]) for name in names if not name.startswith("kv.")}
    kinds = sorted({name.split(".")[1] for name in names if name.startswith("kv.")})
    kv = {kind: fit_store(kind, reports) for kind in kinds}
    return stages, kv


def fit_store(kind: str, reports: Sequence[PeerReport]) -> Kv:
    """What a batch costs where the buffer is empty, and how that grows with what it holds."""
    both = [(report, _samples(report, name)) for report in reports for name in (f"kv.{kind}", f"kv.{kind}{BESIDE_LOOP}")]
    runs = [(rows, buffered_pairs(kind, report, (np.arange(len(rows)) + 0.5) / len(rows))) for report, rows in both if len(rows)]
    store = Kv(write=Linear()) if kind == "dict" else Kv(write=Linear(), pairs_at=_PAIRS_AT, pairs_times=_fit_pairs(runs))
    empty = [
        np.column_stack([rows[:, :2], rows[:, 2] / [interpolated(store.pairs_at, store.pairs_times, pairs) for pairs in held]])
        for rows, held in runs
    ]
    return msgspec.structs.replace(store, write=fit_rows(empty))


def _fit_pairs(runs: Sequence[tuple[NDArray[Any], NDArray[Any]]]) -> tuple[float, ...]:
    """`Kv.pairs_times` at `_PAIRS_AT`, none below that before it, from the samples of each run and what the buffer held at each: by how
    cost changed within each run among batches of like size, by least squares."""
    ends = np.log2(np.array(_PAIRS_AT) + 1)
    steps, logs, weights = [], [], []
    for rows, held in runs:
        keys = _alike(rows)
        for key in np.unique(keys):
            own = np.flatnonzero(keys == key)
            own = own[rows[own, 2] <= _STRAY * np.median(rows[own, 2])]
            if len(own) < _FEWEST_A_PIECE * _PIECES:
                continue
            parts = np.array_split(own[np.argsort(held[own], kind="stable")], _PIECES)
            x = np.array([np.log2(held[part].mean() + 1) for part in parts])
            y = np.log(np.maximum([rows[part, 2].mean() for part in parts], 1.0))
            step = np.clip((x[:, None] - ends[:-1]) / np.diff(ends), 0.0, 1.0)
            steps.append(step - step.mean(axis=0))
            logs.append(y - y.mean())
            weights += [math.sqrt(len(own))] * _PIECES
    if not steps:
        return (1.0,) * len(_PAIRS_AT)
    rises = _nnls(np.concatenate(steps), np.concatenate(logs), np.array(weights))
    return tuple(round(float(times), 3) for times in np.exp(np.cumsum([0.0, *rises])))


def _samples(report: PeerReport, name: str) -> NDArray[Any]:
    """Rows of (entries, bytes, cpu_ns) of that stage."""
    stage = report.stages.get(name)
    return np.asarray(stage.samples if stage is not None else [], dtype=np.float64).reshape(-1, 3)


def fit_rows(samples: Sequence[NDArray[Any]]) -> Linear:
    """One cost for rows of (entries, bytes, cpu_ns)."""
    table = np.concatenate([np.empty((0, 3)), *samples])
    if not len(table):
        return Linear()
    means = []
    # rows of like size count once, by their mean: that is what throughput pays for
    keys = _alike(table)
    for key in np.unique(keys):
        group = table[keys == key]
        group = group[group[:, 2] <= _STRAY * np.median(group[:, 2])]
        means.append((*group.mean(axis=0), len(group)))
    rows = np.array(means)
    fixed, entry, byte = _nnls(
        np.column_stack([np.ones(len(rows)), rows[:, :2]]), rows[:, 2], np.sqrt(rows[:, 3]) / np.maximum(rows[:, 2], 1.0)
    )
    return _bent(Linear(fixed_us=round(fixed / 1e3, 3), entry_us=round(entry / 1e3, 5), byte_ns=round(byte, 5)), rows)


def _alike(rows: NDArray[Any]) -> NDArray[Any]:
    """A number for each row of (entries, bytes, …), the same where both are within half an octave."""
    alike: NDArray[Any] = np.round(np.log2(rows[:, 0] + 1) * 2) * 1000 + np.round(np.log2(rows[:, 1] + 1) * 2)
    return alike


def fit_spread(reports: Sequence[PeerReport]) -> list[float]:
    """`Software.spread`: of all stages and runs, each execution over the mean of those of like size in its run."""
    ratios = []
    for report in reports:
        for name in report.stages:
            table = _samples(report, name)
            keys = _alike(table)
            for key, count in zip(*np.unique(keys, return_counts=True), strict=True):
                spent = table[keys == key, 2]
                if count >= _FEWEST_ALIKE and spent.mean():
                    ratios.append(spent[spent <= _STRAY * np.median(spent)] / spent.mean())
    return [round(ratio, 3) for ratio in np.percentile(np.concatenate(ratios), SPREAD_PERCENT).tolist()] if ratios else []


def _bent(line: Linear, rows: NDArray[Any]) -> Linear:
    """The line with a factor for each number of entries, in powers of two: what was measured there over what the line says. `rows` are
    (entries, bytes, cpu_ns, how many)."""
    octaves = np.round(np.log2(rows[:, 0] + 1))
    sizes = np.round(np.log2(rows[:, 1] / np.maximum(rows[:, 0], 1.0) + 1))
    usual = max(np.unique(sizes), key=lambda size: rows[sizes == size, 3].sum())
    weights = rows[:, 3] * np.where(sizes == usual, 1.0, _OTHER_SIZE)
    fewest = max(_FEWEST_SAMPLES, _RARE * max(rows[octaves == octave, 3].sum() for octave in octaves))
    at: list[float] = []
    times: list[float] = []
    more_ns = math.inf
    for octave in np.unique(octaves)[::-1]:
        group = rows[octaves == octave]
        said = np.array([line.exact_ns(entries, nbytes) for entries, nbytes, _, _ in group])
        weight = group[:, 3].sum()
        took_ns = (group[:, 2] * group[:, 3]).sum() / weight
        if said.all() and weight >= fewest and took_ns <= _DEARER * more_ns:
            more_ns = took_ns
            at.insert(0, round(float((group[:, 0] * group[:, 3]).sum() / weight), 2))
            times.insert(0, round(float(np.average(group[:, 2] / said, weights=weights[octaves == octave])), 3))
    return msgspec.structs.replace(line, at=tuple(at), times=tuple(times)) if len(at) > 1 else line


def _nnls(columns: NDArray[Any], y: NDArray[Any], scale: NDArray[Any]) -> list[float]:
    """The coefficient of each column, none negative, that fit y best, an error of each row weighing `scale`."""
    norms = np.maximum(np.abs(columns).max(axis=0), 1e-9)
    solution, _ = nnls(columns / norms * scale[:, None], y * scale)
    return [float(value) for value in solution / norms]


def _rest_ns(report: PeerReport) -> float:
    """CPU time of a peer that neither its loop nor a thread with a stage or a counter of its own spent."""
    threads_ns = sum(stage.cpu_ns for name, stage in report.stages.items() if name.endswith(BESIDE_LOOP))
    return max(0.0, report.total_ns - report.loop_ns - threads_ns - report.counters.get("disk_cpu_ns", 0))


def with_background(kind: str, store: Kv, reports: Sequence[PeerReport]) -> Kv:
    """With what flushes and compactions cost: what grows with the pairs and bytes flushed, of the CPU time that has no other name. Packets
    have their part in that, too. Runs that saw a flush in part are left out, where others saw one."""
    used = [report for report in reports if put_bytes(kind, report)] if kind != "dict" else []
    if not used:
        return store
    whole_ones = [report for report in used if not cuts_flush(kind, report)]
    if any(report.counters.get("kv_buffers", 0) for report in whole_ones):
        used = whole_ones
    whole = any(report.counters.get("kv_buffers", 0) for report in used)
    store = msgspec.structs.replace(store, flush_bytes=KV_BUFFER_BYTES if whole else 0)
    packets = [report.counters.get("packets_sent", 0) + report.counters.get("packets_received", 0) for report in used]
    sizes = [nbytes + _PAIR_AS_BYTES * pairs for pairs, nbytes in (flushed(kind, store, report) for report in used)]
    table = np.array([packets, sizes], dtype=np.float64).T
    _, byte = _nnls(table, np.array([_rest_ns(report) for report in used]), np.ones(len(used)))
    return msgspec.structs.replace(store, background=Linear(entry_us=round(_PAIR_AS_BYTES * byte / 1e3, 5), byte_ns=round(byte, 4)))


def fit_links(training: Sequence[tuple[Cell, Measurement]], kv: Mapping[str, Kv]) -> tuple[dict[str, LinkWork], float]:
    """Links by name, and `Disk.loop_us`: what packets, wake-ups and hand-offs cost the loop beside its stages, and what packets cost other
    threads beside those of the stores."""
    rows = [(cell.transport, report) for cell, m in training for report in m.reports.values()]
    transports = list(dict.fromkeys(transport for transport, _ in rows))
    table = np.zeros((len(rows), 4 * len(transports) + 1))
    for row, (transport, report) in zip(table, rows, strict=True):
        at, counters = 4 * transports.index(transport), report.counters
        row[at : at + 4] = (
            counters.get("packets_sent", 0),
            turns(report),
            counters.get("bytes_sent", 0),
            counters.get("bytes_received", 0),
        )
        row[-1] = handoffs(report)
    spent = np.array([loop_beside_stages(report) for _, report in rows])
    weight = np.array([1.0 / report.total_ns for _, report in rows])
    *costs, handoff = _nnls(table, spent, weight)
    links = {}
    for i, transport in enumerate(transports):
        send, wake, sent_byte, received_byte = costs[4 * i : 4 * i + 4]
        everyone = [report for used, report in rows if used == transport]
        own = [report for report in everyone if not any(cuts_flush(kind, report) for kind in kv)] or everyone
        compactions = [compactions_ns(kv, report) for report in own]
        rest = [max(0.0, _rest_ns(report) - compacting) for report, compacting in zip(own, compactions, strict=True)]
        packets = [report.counters.get("packets_sent", 0) + report.counters.get("packets_received", 0) for report in own]
        both = np.array([packets, [_moved_bytes(report) for report in own]], dtype=np.float64).T
        packet, background_byte = _nnls(both, np.array(rest), np.array([1.0 / report.total_ns for report in own]))
        links[transport] = LinkWork(
            send=Linear(fixed_us=round(send / 1e3, 3), byte_ns=round(sent_byte, 5)),
            receive=Linear(byte_ns=round(received_byte, 5)),
            wake_us=round(wake / 1e3, 3),
            background=Linear(fixed_us=round(packet / 1e3, 3), byte_ns=round(background_byte, 5)),
        )
    return links, round(handoff / 1e3, 2)


def _moved_bytes(report: PeerReport) -> int:
    return report.counters.get("bytes_sent", 0) + report.counters.get("bytes_received", 0)


def with_cpu(disk: Disk, reports: Sequence[PeerReport]) -> Disk:
    """What saves cost the processors of the peers: more than the probe's, whose caches held nothing else."""
    used = [report for report in reports if disk_cpu_ns(report) and logs_in_files(report)]
    if not used:
        return disk
    table = np.array([(report.counters["wal_syncs"], report.counters["wal_bytes"]) for report in used], dtype=np.float64)
    spent = np.array([disk_cpu_ns(report) for report in used], dtype=np.float64)
    sync, byte = _nnls(table, spent, 1.0 / spent)
    return msgspec.structs.replace(disk, cpu_us=round(sync / 1e3, 1), cpu_byte_ns=round(byte, 4))
