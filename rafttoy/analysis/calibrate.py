"""From short runs on this host to a model of it.

The disk is measured by itself (`rafttoy.analysis.probe`). All CPU costs come from *training cells*: real runs of the same components at
concurrencies that no predicted cell has, whose peers record the CPU time of every stage (`rafttoy.analysis.costs`). What peers wait for
is found by simulating those cells (`rafttoy.analysis.waits`).
"""

from __future__ import annotations

import platform
import statistics
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np

from rafttoy.analysis.costs import SPREAD_PERCENT, fit_links, fit_software, fit_spread, with_background, with_cpu
from rafttoy.analysis.fits import Fit, fits_of, put_bytes, typical, with_calibrated
from rafttoy.analysis.pool import Simulate, one_by_one, side_by_side
from rafttoy.analysis.probe import probe_disk, probe_interruptions
from rafttoy.analysis.waits import LEARNT_PIPELINE, groups_of, with_delays, with_groups, with_pace, with_saves, with_stalls
from rafttoy.cell import Cell, Plan
from rafttoy.experiment import Progress
from rafttoy.run import Measurement
from rafttoy.sim.model import Costs, Disk, DiskUse, Hardware, Interruptions, Link, Meta, Model, Software
from rafttoy.storage import is_durable
from rafttoy.worlds import cores, idle_cores, run_local

__all__ = [
    "Calibration",
    "Round",
    "calibrate",
    "calibration_of",
    "fit",
    "measure_group",
    "measure_round",
    "probe_round",
    "quick_calibration",
    "training_cells",
]

S = TypeVar("S", bound=msgspec.Struct)

_LOADS = (2, 24, 200, 800, 2500)
_OTHER_SIZES_CONC = 200
_HANDING_OVER = "async-storage"
_TRAINING = Plan(seconds=0.5, warmup_seconds=0.5)
"""Half a second after a run began its segments are being written ahead, and the last one's are erased: saves of 24 have a tail of ten times
their median then, of 2.6 times later."""

_LONG = Plan(seconds=1.5, warmup_seconds=0.3)
_LONG_FROM_CONC = 800
"""A store flushes only after its first 32 MiB, which takes core time and the device from there on: runs of a second see an empty one."""


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
    """Cells to learn from, in groups: every transport of `cells` with every storage that they have with it, at concurrencies and sizes
    chosen so that none of `cells` is among them. With few proposals in flight two pipelines of a durable log: one whose loop saves by
    itself, and one that hands over."""
    first = cells[0]
    pairs = dict.fromkeys((cell.transport, (cell.storage, cell.wal, cell.engine)) for cell in cells)
    counts = Counter(cell.bytes for cell in cells)
    usual, sizes = max(counts, key=lambda size: counts[size]), sorted(counts)
    taken = set(cells)
    groups = []
    for transport, (storage, wal, engine) in pairs:
        group = []
        others = dict.fromkeys(size for size in (sizes[0], sizes[-1]) if size != usual)
        loads = [(LEARNT_PIPELINE, conc, usual) for conc in _LOADS]
        if is_durable(storage, wal):
            loads.insert(1, (_HANDING_OVER, _LOADS[0], usual))
        for pipeline, conc, size in (*loads, *((LEARNT_PIPELINE, _OTHER_SIZES_CONC, size) for size in others)):
            cell = Cell(pipeline, wal, engine, storage, transport, conc, bytes=size, nodes=first.nodes)
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
    found = probe_round(plan, data_dir)
    for i, group in enumerate(groups):
        progress(str(group[0]), (1 + i) / (1 + len(groups)))
        found.runs.extend(measure_group(group, plan, data_dir))
    return found


def probe_round(plan: Plan, data_dir: Path | None) -> Round:
    """The beginning of one: the disk and the cores by themselves."""
    with idle_cores(plan.idle):
        return Round(probe_disk(data_dir), probe_interruptions(cores(None)), [])


def measure_group(group: Sequence[Cell], plan: Plan, data_dir: Path | None) -> list[tuple[Cell, Measurement]]:
    """Its part for one group of training cells. High loads have processes of their own: those that keep the memory of an earlier run get
    none from the kernel, whose pages cost as much as the work (`propose` of 800 beside LevelDB: 0.33 to 0.42 µs each, and 0.14 to 0.17 in
    processes that had run before)."""
    run_plan = msgspec.structs.replace(_TRAINING, seed=plan.seed, sync=plan.sync, idle=plan.idle, connect_seconds=plan.connect_seconds)
    long_plan = msgspec.structs.replace(run_plan, seconds=_LONG.seconds, warmup_seconds=_LONG.warmup_seconds)
    high = [cell for cell in group if cell.conc >= _LONG_FROM_CONC]
    found: dict[Cell, Measurement] = {}
    for together, own_plan in (([cell for cell in group if cell not in high], run_plan), (high, long_plan)):
        run_local(
            [(cell, own_plan) for cell in together],
            data_dir=data_dir,
            on_measured=lambda position, measurement, together=together: found.update({together[position]: measurement}),  # type: ignore[misc]
            progress=lambda position, share: None,
            say=lambda line: None,
            samples=True,
        )
    return [(cell, found[cell]) for cell in group]


def calibration_of(rounds: Sequence[Round]) -> Calibration:
    """What the rounds say together: of probes the median (one of three met a host that was taken from its guests for 34 ms at a time), and
    one fit of all runs."""
    training = [run for one in rounds for run in one.runs]
    stops = [one.interruptions for one in rounds if one.interruptions is not None]
    calm = [0.0] * (len(rounds) - len(stops))  # a round without any is one of 0 a second
    per_s = round(statistics.median([*(one.per_s for one in stops), *calm]), 2)
    interruptions = msgspec.structs.replace(_median(stops), per_s=per_s) if per_s else None
    with side_by_side(min(cores(None), len(training))) as simulate:
        model = fit(training, _median([one.disk for one in rounds]), interruptions, simulate)
        fits = fits_of(model, training, simulate)
    return Calibration(with_calibrated(model, training, fits), fits)


def _median(structs: Sequence[S]) -> S:
    """Number by number, and list by list."""
    values = [msgspec.structs.asdict(struct) for struct in structs]
    medians = {name: np.median([each[name] for each in values], axis=0).round(4).tolist() for name in values[0]}
    return msgspec.structs.replace(structs[0], **medians)


def fit(
    training: Sequence[tuple[Cell, Measurement]],
    disk: Disk,
    interruptions: Interruptions | None = None,
    simulate: Simulate = one_by_one,
) -> Model:
    """The model that explains the training runs best. CPU costs are of all of them; what is fitted by simulating a cell is a
    median of its runs."""
    once = typical(training)
    reports = [report for _, measurement in training for report in measurement.reports.values()]
    stages, kv = fit_software(reports)
    kv = {kind: with_background(kind, store, reports) for kind, store in kv.items()}
    works, loop_us = fit_links(training, kv)
    links = {transport: work.on(Link(delay_us=0.0)) for transport, work in works.items()}
    disk = msgspec.structs.replace(disk, loop_us=loop_us)
    spread = fit_spread(reports)
    model = Model(
        meta=Meta(
            name=f"{platform.node()}-quick",
            host=platform.node(),
            method=f"disk probe and {len(once)} training cells",
            confidence=f"short runs, {len(training) // len(once)} a training cell",
        ),
        hardware=Hardware(cores=cores(None), disk=with_cpu(disk, reports), links=links, interruptions=interruptions),
        software=Software(
            stages,
            kv,
            spread=spread,
            spread_percent=SPREAD_PERCENT if spread else [],
            lock_us=_lock_us(),
            placed=True,
            reads_in_turn=True,
        ),
    )
    model = with_groups(model, {name: _fit_group(model, training, name) for name in groups_of(training)})
    synced = [(cell, m) for cell, m in training if is_durable(cell.storage, cell.wal)]
    for _ in range(2):  # each waits for the others
        model = with_delays(model, training, simulate)
        model = with_saves(model, synced, simulate)
        model = with_stalls(model, training, simulate)
    return with_pace(model, training, simulate)


def _lock_us() -> float:
    """How long a thread of this interpreter keeps the lock that others wait for; 0 in a build without it."""
    locked = getattr(sys, "_is_gil_enabled", lambda: True)()
    return round(sys.getswitchinterval() * 1e6, 1) if locked else 0.0


def _fit_group(model: Model, training: Sequence[tuple[Cell, Measurement]], name: str) -> Costs:
    """What the peers of that group cost, beside what holds for all."""
    own = [(cell, m) for cell, m in training if cell.group_name() == name]
    reports = [report for _, m in own for report in m.reports.values()]
    stages, kv = fit_software(reports)
    for kind, store in kv.items():
        flushed = any(report.counters.get("kv_buffers", 0) for report in reports if put_bytes(kind, report))
        known = msgspec.structs.replace(model.software.kv[kind], write=store.write)
        kv[kind] = with_background(kind, store, reports) if flushed else known
    links, loop_us = fit_links(own, kv)
    return Costs(stages, kv, links, DiskUse(loop_us))
