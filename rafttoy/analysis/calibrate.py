"""From short runs on this host to a model of it.

The disk is measured by itself (`rafttoy.analysis.probe`). All CPU costs come from *training cells*: real runs of the same components at
concurrencies that no predicted cell has, whose peers record the CPU time of every stage. Each stage's cost is fitted as
a + b · entries + c · bytes (non-negative least squares on relative errors: Lawson & Hanson 1974); what the loop's thread spent beside
its stages is put down to packets, wake-ups and hand-offs, what other threads spent to the stores' compactions and the transport's own.

Three things are fitted by simulating the training cells. A disk under a group of peers is slower than by itself (they sync at the same
time, share its cores, and other files are written): for each group its sync is scaled, by the bytes written at once, until saves take
as long as in the training runs; and its slow saves are spread as theirs. The one-way delay of a link is what makes the training cells of
lowest concurrency as slow as the measured ones, and what a group adds to it.
"""

from __future__ import annotations

import math
import platform
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from rafttoy.analysis.fits import (
    Fit,
    buffered_pairs,
    compactions_ns,
    cuts_flush,
    fits_of,
    flushed,
    handoffs,
    logs_in_files,
    loop_beside_stages,
    put_bytes,
    turns,
    typical,
    with_calibrated,
)
from rafttoy.analysis.probe import probe_disk, probe_interruptions
from rafttoy.cell import Cell, Plan
from rafttoy.experiment import Progress
from rafttoy.member import PeerReport
from rafttoy.observe import BESIDE_LOOP
from rafttoy.ports import KV_BUFFER_BYTES, KV_INLINE_BYTES
from rafttoy.proposal import OVERHEAD_BYTES
from rafttoy.run import Measurement
from rafttoy.sim.model import Costs, Disk, DiskUse, Hardware, Interruptions, Kv, Linear, Link, LinkWork, Meta, Model, Software, interpolated
from rafttoy.storage import is_durable
from rafttoy.worlds import cores, run_local, run_sim

__all__ = [
    "Calibration",
    "Round",
    "calibrate",
    "calibration_of",
    "measure_group",
    "measure_round",
    "probe_round",
    "quick_calibration",
    "training_cells",
]

S = TypeVar("S", bound=msgspec.Struct)

_LOADS = (2, 24, 200, 800, 2500)
_OTHER_SIZES_CONC = 200
_TRAINING = Plan(seconds=0.7, warmup_seconds=0.3)
_LONG_SECONDS = 2.7
"""Of the highest load: a store flushes and compacts only after its first 32 MiB, which takes core time and the device from there on."""

_SIMULATED = Plan(seconds=0.15, warmup_seconds=0.03)
_PACED = Plan(seconds=0.25, warmup_seconds=0.03)
_STEPS = 3
_LEAST, _MOST = 0.1, 30.0
"""Bounds of a factor on a sync: beyond them it is not the sync that the time went to."""

_NARROWEST, _WIDEST = 0.5, 4.0
"""Bounds of a sync's spread."""

_MOST_PACE = 0.5
_SLOWEST_OF_PACE = 1.3
"""With a pace and nothing else, the slowest proposal in a hundred takes exp(1.3 * pace) times the median: there are sixteen paces, and
fewer proposals in the slow ones."""

_FEWEST_SAMPLES = 8
_RARE = 0.005
"""Of the samples of the most usual number of entries. What is rarer is another kind of work under the same name: the write of one pair that
makes an engine durable before its log is cut takes 2 ms, not 20 µs."""


_STRAY = 20.0
"""An execution that takes this many times as long as half of its kind was stopped, and by nothing that it does itself."""

_SPREAD_PERCENT = [*map(float, range(0, 100, 5)), 97.5, 99.0, 99.5, 99.9, 99.97, 100.0]
_FEWEST_ALIKE = 50

_OTHER_SIZE = 0.1
"""What the size of proposals that few training cells have weighs in the bend of a cost, beside the one that most have."""

_DEARER = 1.5
"""What is this many times dearer with fewer entries is such work, too, however often it was met."""


_PAIR_AS_BYTES = 230
"""A pair that LevelDB flushes costs as much CPU time as so many bytes: buffers of 256 B pairs took 390 to 490 ms, of 4 KiB 200 to 310."""

_PAIRS_AT = tuple(float(1 << bits) for bits in range(10, 19, 2))
_PIECES, _FEWEST_A_PIECE = 8, 4
"""Of a run, from an empty buffer to a full one."""


class Round(msgspec.Struct, frozen=True):
    """What one round of a calibration measured: the disk and the cores by themselves, and training cells."""

    disk: Disk
    interruptions: Interruptions | None
    runs: list[tuple[Cell, Measurement]]


class Calibration(msgspec.Struct, frozen=True):
    """A model, and how well each of its costs fits what it was made from."""

    model: Model
    fits: list[Fit]


def training_cells(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Cells to learn from, in groups that the same processes run: every transport of `cells` with every storage that they have with it,
    at concurrencies and sizes chosen so that none of `cells` is among them."""
    first = cells[0]
    pairs = dict.fromkeys((cell.transport, (cell.storage, cell.wal, cell.engine)) for cell in cells)
    counts = Counter(cell.bytes for cell in cells)
    usual, sizes = max(counts, key=lambda size: counts[size]), sorted(counts)
    taken = set(cells)
    groups = []
    for transport, (storage, wal, engine) in pairs:
        group = []
        others = dict.fromkeys(size for size in (sizes[0], sizes[-1]) if size != usual)
        loads = [(conc, usual) for conc in _LOADS] + [(_OTHER_SIZES_CONC, size) for size in others]
        for conc, size in loads:
            cell = Cell("parallel-append", wal, engine, storage, transport, conc, bytes=size, nodes=first.nodes)
            while cell in taken:
                cell = msgspec.structs.replace(cell, conc=cell.conc + 1)
            group.append(cell)
        groups.append(group)
    return groups


def quick_calibration(cells: Sequence[Cell], plan: Plan, progress: Progress, data_dir: Path | None = None) -> Model:
    """A model of this host for the transports and storages of `cells`: some 10 s for each, and as long again for the disk and the fits.

    Raises what the runs raise (RunError, StorageError)."""
    return calibrate(cells, plan, progress, data_dir).model


def calibrate(cells: Sequence[Cell], plan: Plan, progress: Progress, data_dir: Path | None = None, *, repeats: int = 1) -> Calibration:
    """The same, with the error of each fit; every training cell is run `repeats` times, in interleaved rounds."""
    rounds = []
    for i in range(repeats):

        def within(what: str, share: float, i: int = i) -> None:
            progress(what, (i + share) / repeats)

        seeded = msgspec.structs.replace(plan, seed=plan.seed + i)
        rounds.append(measure_round(cells, seeded, within, data_dir))
    progress("fitting", 1.0)
    return calibration_of(rounds)


def measure_round(cells: Sequence[Cell], plan: Plan, progress: Progress, data_dir: Path | None = None) -> Round:
    """What a model of `cells` is fitted from, measured once."""
    groups = training_cells(cells)
    progress("disk", 0.0)
    found = probe_round(data_dir)
    for i, group in enumerate(groups):
        progress(str(group[0]), (1 + i) / (1 + len(groups)))
        found.runs.extend(measure_group(group, plan, data_dir))
    return found


def probe_round(data_dir: Path | None) -> Round:
    """The beginning of one: the disk and the cores by themselves."""
    return Round(probe_disk(data_dir), probe_interruptions(cores(None)), [])


def measure_group(group: Sequence[Cell], plan: Plan, data_dir: Path | None) -> list[tuple[Cell, Measurement]]:
    """Its part for one group of training cells."""
    found = []
    run_plan = msgspec.structs.replace(_TRAINING, seed=plan.seed, sync=plan.sync, connect_seconds=plan.connect_seconds)
    long_plan = msgspec.structs.replace(run_plan, seconds=_LONG_SECONDS)
    run_local(
        [(cell, long_plan if cell.conc >= _LOADS[-1] else run_plan) for cell in group],
        data_dir=data_dir,
        on_measured=lambda position, measurement: found.append((group[position], measurement)),
        progress=lambda position, share: None,
        say=lambda line: None,
        samples=True,
    )
    return found


def calibration_of(rounds: Sequence[Round]) -> Calibration:
    """What the rounds say together: of probes the mean, and one fit of all runs."""
    training = [run for one in rounds for run in one.runs]
    stops = [one.interruptions for one in rounds if one.interruptions is not None]
    interruptions = None
    if stops:  # a round without any is one of 0 a second
        interruptions = msgspec.structs.replace(_mean(stops), per_s=round(sum(one.per_s for one in stops) / len(rounds), 2))
    model = fit(training, _mean([one.disk for one in rounds]), interruptions)
    fits = fits_of(model, training)
    return Calibration(with_calibrated(model, training, fits), fits)


def _mean(structs: Sequence[S]) -> S:
    """Number by number, and list by list."""
    values = [msgspec.structs.asdict(struct) for struct in structs]
    means = {name: np.mean([each[name] for each in values], axis=0).round(4).tolist() for name in values[0]}
    return msgspec.structs.replace(structs[0], **means)


def fit(training: Sequence[tuple[Cell, Measurement]], disk: Disk, interruptions: Interruptions | None = None) -> Model:
    """The model that explains the training runs best. CPU costs are of all of them; what is fitted by simulating a cell is of its run of
    median throughput."""
    once = typical(training)
    reports = [report for _, measurement in training for report in measurement.reports.values()]
    stages, kv = _fit_software(reports)
    kv = {kind: _with_background(kind, store, reports) for kind, store in kv.items()}
    works, loop_us = _fit_links(training, kv)
    links = {transport: work.on(Link(delay_us=0.0)) for transport, work in works.items()}
    disk = msgspec.structs.replace(disk, loop_us=loop_us)
    spread = _fit_spread(reports)
    model = Model(
        meta=Meta(
            name=f"{platform.node()}-quick",
            host=platform.node(),
            method=f"disk probe and {len(once)} training cells",
            confidence=f"short runs, {len(training) // len(once)} a training cell",
        ),
        hardware=Hardware(cores=cores(None), disk=_with_cpu(disk, reports), links=links, interruptions=interruptions),
        software=Software(stages, kv, spread=spread, spread_percent=_SPREAD_PERCENT if spread else []),
    )
    model = _with_groups(model, {name: _fit_group(model, training, name) for name in _groups(training)})
    for _ in range(2):  # each waits for the others
        model = _with_delays(model, once)
        model = _with_saves(model, [(c, m) for c, m in training if is_durable(c.storage, c.wal)])
        model = _with_stalls(model, once)
        model = _with_pace(model, training)
    return model


def _fit_software(reports: Sequence[PeerReport]) -> tuple[dict[str, Linear], dict[str, Kv]]:
    """(stages, stores) of peers."""
    names = sorted({name for report in reports for name in report.stages})
    stages = {name: _fit_rows([_samples(report, name) for report in reports]) for name in names if not name.startswith("kv.")}
    kinds = sorted({name.split(".")[1] for name in names if name.startswith("kv.")})
    kv = {kind: _fit_store(kind, reports) for kind in kinds}
    return stages, kv


def _fit_store(kind: str, reports: Sequence[PeerReport]) -> Kv:
    """What a batch costs where the buffer is empty, and how that grows with what it holds."""
    both = [(report, _samples(report, name)) for report in reports for name in (f"kv.{kind}", f"kv.{kind}{BESIDE_LOOP}")]
    runs = [(rows, buffered_pairs(kind, report, (np.arange(len(rows)) + 0.5) / len(rows))) for report, rows in both if len(rows)]
    store = Kv(write=Linear()) if kind == "dict" else Kv(write=Linear(), pairs_at=_PAIRS_AT, pairs_times=_fit_pairs(runs))
    empty = [
        np.column_stack([rows[:, :2], rows[:, 2] / [interpolated(store.pairs_at, store.pairs_times, pairs) for pairs in held]])
        for rows, held in runs
    ]
    return msgspec.structs.replace(store, write=_fit_rows(empty))


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


def _groups(training: Sequence[tuple[Cell, Any]]) -> list[str]:
    return list(dict.fromkeys(cell.group_name() for cell, _ in training))


def _with_groups(model: Model, groups: dict[str, Costs]) -> Model:
    return msgspec.structs.replace(model, software=msgspec.structs.replace(model.software, groups=groups))


def _fit_group(model: Model, training: Sequence[tuple[Cell, Measurement]], name: str) -> Costs:
    """What the peers of that group cost, beside what holds for all."""
    own = [(cell, m) for cell, m in training if cell.group_name() == name]
    reports = [report for _, m in own for report in m.reports.values()]
    stages, kv = _fit_software(reports)
    for kind, store in kv.items():
        flushed = any(report.counters.get("kv_buffers", 0) for report in reports if put_bytes(kind, report))
        known = msgspec.structs.replace(model.software.kv[kind], write=store.write)
        kv[kind] = _with_background(kind, store, reports) if flushed else known
    links, loop_us = _fit_links(own, kv)
    return Costs(stages, kv, links, DiskUse(loop_us))


def _samples(report: PeerReport, name: str) -> NDArray[Any]:
    """Rows of (entries, bytes, cpu_ns) of that stage."""
    stage = report.stages.get(name)
    return np.asarray(stage.samples if stage is not None else [], dtype=np.float64).reshape(-1, 3)


def _fit_rows(samples: Sequence[NDArray[Any]]) -> Linear:
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


def _fit_spread(reports: Sequence[PeerReport]) -> list[float]:
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
    return [round(ratio, 3) for ratio in np.percentile(np.concatenate(ratios), _SPREAD_PERCENT).tolist()] if ratios else []


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


def _with_background(kind: str, store: Kv, reports: Sequence[PeerReport]) -> Kv:
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


def _fit_links(training: Sequence[tuple[Cell, Measurement]], kv: Mapping[str, Kv]) -> tuple[dict[str, LinkWork], float]:
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


def _with_cpu(disk: Disk, reports: Sequence[PeerReport]) -> Disk:
    """What saves cost the disk threads of the peers: more than the probe's, whose caches held nothing else."""
    used = [report.counters for report in reports if report.counters.get("disk_cpu_ns", 0) and logs_in_files(report)]
    if not used:
        return disk
    table = np.array([(counters["wal_syncs"], counters["wal_bytes"]) for counters in used], dtype=np.float64)
    spent = np.array([counters["disk_cpu_ns"] for counters in used], dtype=np.float64)
    sync, byte = _nnls(table, spent, 1.0 / spent)
    return msgspec.structs.replace(disk, cpu_us=round(sync / 1e3, 1), cpu_byte_ns=round(byte, 4))


def _with_delays(model: Model, training: Sequence[tuple[Cell, Measurement]]) -> Model:
    """The model with delays of links such that the two cells of lowest concurrency of each group take as long as measured in the median, on
    average (a proposal crosses the link twice): a link's delay is that of its quickest group, and what others add is theirs."""
    delays = {name: _delay_us(model, name, training) for name in _groups(training)}
    groups = dict(model.software.groups)
    for transport in model.hardware.links:
        own = {name: delay_us for name, delay_us in delays.items() if name.rpartition(" ")[2] == transport}
        quickest_us = round(min(own.values()), 2)
        model = _with_link(model, transport, delay_us=quickest_us)
        for name, delay_us in own.items():
            groups[name] = _late(groups[name], transport, delay_us - quickest_us)
    return _with_groups(model, groups)


def _delay_us(model: Model, group: str, training: Sequence[tuple[Cell, Measurement]]) -> float:
    """What the delay of a group's link has to be."""
    transport = group.rpartition(" ")[2]
    fewest = sorted(((c, m) for c, m in training if c.group_name() == group), key=lambda pair: pair[0].conc)[:2]
    costs = model.software.groups[group]
    delay_us = model.hardware.links[transport].delay_us + costs.links[transport].late_us
    for _ in range(_STEPS):
        trial = _with_groups(_with_link(model, transport, delay_us=delay_us), {group: _late(costs, transport, 0.0)})
        delay_us = max(0.0, delay_us + _missing_us(trial, fewest) / 2)
    return delay_us


def _late(costs: Costs, transport: str, late_us: float) -> Costs:
    """The costs with that on top of the delay of the group's link."""
    work = msgspec.structs.replace(costs.links[transport], late_us=round(late_us, 2))
    return msgspec.structs.replace(costs, links={**costs.links, transport: work})


def _missing_us(model: Model, training: Sequence[tuple[Cell, Measurement]]) -> float:
    """By how much these cells take longer than simulated, in the median, on average."""
    return statistics.fmean(m.latency.p50 - run_sim(cell, _SIMULATED, model).latency.p50 for cell, m in training) / 1e3


def _with_link(model: Model, transport: str, **costs: float) -> Model:
    link = msgspec.structs.replace(model.hardware.links[transport], **costs)
    links = {**model.hardware.links, transport: link}
    return msgspec.structs.replace(model, hardware=msgspec.structs.replace(model.hardware, links=links))


def _with_saves(model: Model, training: Sequence[tuple[Cell, Measurement]]) -> Model:
    """The model in which the saves of those cells take as long as measured, in the median (one stall of 200 ms in a second makes a mean
    of twice that, and a model of low load that is half as fast as the host), and the slowest in a hundred as many times longer: for each
    group a factor on the sync, and a width of its distribution, for each number of bytes that its cells wrote at once. How wide it is where
    stores flushed says the next smaller number: while they do, a save waits for them."""
    runs: dict[Cell, list[Measurement]] = {}
    for cell, measured in training:
        runs.setdefault(cell, []).append(measured)
    once = typical(training)
    for _ in range(_STEPS):
        groups = dict(model.software.groups)
        for name in _groups(once):
            octaves: dict[int, list[tuple[float, float, float]]] = {}
            for cell, measured in once:
                if cell.group_name() == name:
                    nbytes = _save_bytes(cell, measured)
                    found = _sync_factors(model, cell, measured, statistics.median(map(_tail, runs[cell])))
                    octaves.setdefault(round(math.log2(nbytes)), []).append((nbytes, *found))
            at, times, spreads = zip(*(map(_mean_known, zip(*octaves[octave], strict=True)) for octave in sorted(octaves)), strict=True)
            groups[name] = _under(
                groups.get(name, Costs()),
                model.hardware.disk,
                at=tuple(round(nbytes, 1) for nbytes in at),
                times=tuple(round(factor, 3) for factor in times),
                spreads=tuple(round(spread, 3) for spread in _carried(spreads)),
            )
        model = _with_groups(model, groups)
    return model


def _mean_known(values: Sequence[float]) -> float:
    """The mean of those that are numbers, or none."""
    known = [value for value in values if not math.isnan(value)]
    return statistics.fmean(known) if known else math.nan


def _carried(values: Sequence[float]) -> list[float]:
    """Those that are no numbers take the one before (1 at the beginning)."""
    out: list[float] = []
    for value in values:
        out.append((out[-1] if out else 1.0) if math.isnan(value) else value)
    return out


def _sync_factors(model: Model, cell: Cell, measured: Measurement, tail: float) -> tuple[float, float]:
    """What the sync is to be multiplied with for `cell` to save as fast as measured (all that is missing is the sync's), and the spread
    that makes the slowest saves so much slower (`tail`); NaN where stores flushed."""
    disk = model.on(cell.group_name()).hardware.disk
    nbytes = _save_bytes(cell, measured)
    simulated = run_sim(cell, _SIMULATED, model)
    missing_us = _save_us(measured) - _save_us(simulated)
    factor = interpolated(disk.at, disk.times, nbytes) + missing_us / _median_sync_us(disk)
    flushes = any(report.counters.get("kv_buffers", 0) for report in measured.reports.values())
    spread = interpolated(disk.at, disk.spreads, nbytes) * tail / _tail(simulated) if not flushes else math.nan
    return min(_MOST, max(_LEAST, factor)), spread if math.isnan(spread) else min(_WIDEST, max(_NARROWEST, spread))


def _with_pace(model: Model, training: Sequence[tuple[Cell, Measurement]]) -> Model:
    """The model in whose cells of few proposals (no store flushes meanwhile) the slowest in a hundred take as many times the median as
    measured, in the median of cells: variances of logarithms add up."""
    runs: dict[Cell, list[Measurement]] = {}
    for cell, measured in training:
        if cell.conc <= _OTHER_SIZES_CONC:
            runs.setdefault(cell, []).append(measured)
    wanted = {cell: statistics.median(map(_slowest, measured)) for cell, measured in runs.items()}
    pace = model.hardware.pace
    for _ in range(_STEPS):
        short = statistics.median(tail**2 - _slowest(run_sim(cell, _PACED, model)) ** 2 for cell, tail in wanted.items())
        pace = math.sqrt(min(_MOST_PACE**2, max(0.0, pace**2 + short / _SLOWEST_OF_PACE**2)))
        model = msgspec.structs.replace(model, hardware=msgspec.structs.replace(model.hardware, pace=round(pace, 4)))
    return model


def _slowest(measurement: Measurement) -> float:
    """The logarithm of how many times longer than the median a proposal in a hundred takes."""
    return math.log(measurement.latency.p99 / measurement.latency.p50)


def _under(costs: Costs, disk: Disk, **changes: Any) -> Costs:
    """The costs with changes to how the disk is under that group."""
    use = costs.disk if costs.disk is not None else DiskUse(disk.loop_us)
    return msgspec.structs.replace(costs, disk=msgspec.structs.replace(use, **changes))


def _tail(measurement: Measurement) -> float:
    """The logarithm of how many times longer than the median a save in a hundred takes, in the mean of the peers."""
    saves = [report.metrics["append_latency_us"] for report in measurement.reports.values()]
    return max(0.05, statistics.fmean(math.log(save["p99"] / save["p50"]) for save in saves if save["p50"]))


def _save_bytes(cell: Cell, measurement: Measurement) -> float:
    """What a sync of the log makes durable: where one store holds data as well, those too."""
    report = next(iter(measurement.reports.values()))
    nbytes = report.counters.get("wal_bytes", 0) if cell.storage == "split" else put_bytes(cell.storage, report)
    return max(1.0, nbytes / max(1, report.counters.get("wal_syncs", 0)))


def _with_stalls(model: Model, training: Sequence[tuple[Cell, Measurement]]) -> Model:
    """The model in which applying takes as long as measured where stores write on their own threads: what is missing, beyond their CPU
    time, is put down to flushes and compactions, by the byte."""
    groups = dict(model.software.groups)
    for name, costs in groups.items():
        over = under = 0.0
        for cell, measured in training:
            batch = next(iter(measured.reports.values())).metrics["apply_batch_sizes"]["mean"]
            nbytes = batch * (cell.bytes + OVERHEAD_BYTES)
            if cell.group_name() == name and nbytes > KV_INLINE_BYTES:
                took_us = _apply_us(measured)
                missing_us = took_us - _apply_us(run_sim(cell, _SIMULATED, model))
                over, under = over + missing_us * nbytes / took_us**2, under + nbytes**2 / took_us**2
        if under:
            kv = {
                kind: msgspec.structs.replace(store, stall_byte_ns=round(max(0.0, store.stall_byte_ns + 1e3 * over / under), 3))
                for kind, store in costs.kv.items()
                if kind != "dict"
            }
            groups[name] = msgspec.structs.replace(costs, kv=costs.kv | kv)
    return _with_groups(model, groups)


def _apply_us(measurement: Measurement) -> float:
    return float(next(iter(measurement.reports.values())).metrics["apply_latency_us"]["mean"])


def _save_us(measurement: Measurement) -> float:
    """Of all peers: who comes second to the device waits longer, and that may be the leader or a follower."""
    return statistics.fmean(report.metrics["append_latency_us"]["p50"] for report in measurement.reports.values())


def _median_sync_us(disk: Disk) -> float:
    return float(np.interp(50.0, disk.percents(), disk.sync_us))
