"""From short runs on this host to a model of it.

The disk is measured by itself (`rafttoy.analysis.probe`). All CPU costs come from *training cells*: real runs of the same components at
concurrencies that no predicted cell has, whose peers record the CPU time of every stage. Each stage's cost is fitted as
a + b · entries + c · bytes (non-negative least squares on relative errors: Lawson & Hanson 1974); what the loop's thread spent beside
its stages is put down to packets sent and received, what other threads spent to the transport's background. The one-way delay of
the link is what makes the simulated training cell of lowest concurrency as slow as the measured one.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from rafttoy.analysis.fits import Fit, fits_of, with_calibrated
from rafttoy.analysis.probe import probe_disk
from rafttoy.cell import Cell, Plan
from rafttoy.experiment import Progress
from rafttoy.member import PeerReport
from rafttoy.run import Measurement
from rafttoy.sim.model import Disk, Hardware, Kv, Linear, Link, Meta, Model, Software
from rafttoy.worlds import cores, run_local, run_sim

__all__ = ["Calibration", "calibrate", "quick_calibration", "training_cells"]

_CONCURRENCIES = (2, 24, 400)
_TRAINING = Plan(seconds=0.7, warmup_seconds=0.3)
_THREAD = ".thread"
"""Stages whose name ends so run beside the loop."""


class Calibration(msgspec.Struct, frozen=True):
    """A model, and how well each of its costs fits what it was made from."""

    model: Model
    fits: list[Fit]


def training_cells(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Cells to learn from, in groups that the same processes run: every transport and every storage of `cells` once, at
    concurrencies and sizes chosen so that none of `cells` is among them."""
    first = cells[0]
    transports = list(dict.fromkeys(cell.transport for cell in cells))
    storages = list(dict.fromkeys((cell.storage, cell.wal, cell.engine) for cell in cells))
    pairs = [(transport, storages[0]) for transport in transports] + [(transports[0], storage) for storage in storages[1:]]
    sizes = sorted({cell.bytes for cell in cells})
    taken = set(cells)
    groups = []
    for transport, (storage, wal, engine) in pairs:
        group = []
        loads = [(conc, sizes[0]) for conc in _CONCURRENCIES] + [(_CONCURRENCIES[-1], size) for size in sizes[-1:] if size != sizes[0]]
        for conc, size in loads:
            cell = Cell("parallel-append", wal, engine, storage, transport, conc, bytes=size, nodes=first.nodes)
            while cell in taken:
                cell = msgspec.structs.replace(cell, conc=cell.conc + 1)
            group.append(cell)
        groups.append(group)
    return groups


def quick_calibration(cells: Sequence[Cell], plan: Plan, progress: Progress, data_dir: Path | None = None) -> Model:
    """A model of this host, good enough to see what binds, in about 10 s: for the transports and storages of `cells`.

    Raises what the runs raise (RunError, StorageError)."""
    return calibrate(cells, plan, progress, data_dir).model


def calibrate(cells: Sequence[Cell], plan: Plan, progress: Progress, data_dir: Path | None = None) -> Calibration:
    """The same, with the error of each fit."""
    progress("disk", 0.0)
    disk = probe_disk(data_dir)
    groups = training_cells(cells)
    training: list[tuple[Cell, Measurement]] = []
    for i, group in enumerate(groups):
        progress(str(group[0]), (1 + i) / (2 + len(groups)))

        def measured(position: int, measurement: Measurement, group: list[Cell] = group) -> None:
            training.append((group[position], measurement))

        run_plan = msgspec.structs.replace(_TRAINING, seed=plan.seed, sync=plan.sync, connect_seconds=plan.connect_seconds)
        run_local(
            [(cell, run_plan) for cell in group],
            data_dir=data_dir,
            on_measured=measured,
            progress=lambda position, share: None,
            say=lambda line: None,
            samples=True,
        )
    progress("fitting", (1 + len(groups)) / (2 + len(groups)))
    model = fit(training, disk)
    fits = fits_of(model, training)
    progress("done", 1.0)
    return Calibration(with_calibrated(model, training, fits), fits)


def fit(training: Sequence[tuple[Cell, Measurement]], disk: Disk) -> Model:
    """The model that explains the training runs best."""
    reports = [report for _, measurement in training for report in measurement.reports.values()]
    stages = {name: _fit_stages(reports, (name,)) for name in _names(reports)}
    kinds = sorted({name.split(".")[1] for name in stages if name.startswith("kv.")})
    kv = {kind: Kv(write=_fit_stages(reports, (f"kv.{kind}", f"kv.{kind}{_THREAD}"))) for kind in kinds}
    stages = {name: cost for name, cost in stages.items() if not name.startswith("kv.")}
    links = {}
    for transport in dict.fromkeys(cell.transport for cell, _ in training):
        rows = [(cell, m) for cell, m in training if cell.transport == transport]
        links[transport] = _fit_link([report for _, m in rows for report in m.reports.values()])
    model = Model(
        meta=Meta(
            name=f"{platform.node()}-quick",
            host=platform.node(),
            method=f"disk probe and {len(training)} training cells",
            confidence="quick: one short run a training cell",
        ),
        hardware=Hardware(cores=cores(None), disk=disk, links=links),
        software=Software(stages=stages, kv=kv),
    )
    for transport in links:
        slowest = min(((c, m) for c, m in training if c.transport == transport), key=lambda pair: pair[0].conc)
        model = _with_delay(model, transport, *slowest)
    return model


def _names(reports: Iterable[PeerReport]) -> list[str]:
    return sorted({name for report in reports for name in report.stages})


def _fit_stages(reports: Sequence[PeerReport], names: Sequence[str]) -> Linear:
    """One cost for what is recorded under any of `names`, from rows of (entries, bytes, cpu_ns)."""
    samples = [report.stages[name].samples for report in reports for name in names if name in report.stages]
    table = np.concatenate([np.asarray(rows, dtype=np.float64).reshape(-1, 3) for rows in samples])
    if not len(table):
        return Linear()
    means = []
    # rows of like size count once, by their trimmed mean: throughput pays for means, a stray interrupt is not the stage's
    keys = np.round(np.log2(table[:, 0] + 1) * 2) * 1000 + np.round(np.log2(table[:, 1] + 1) * 2)
    for key in np.unique(keys):
        group = table[keys == key]
        group = group[group[:, 2] <= np.quantile(group[:, 2], 0.98)]
        means.append((*group.mean(axis=0), len(group)))
    rows = np.array(means)
    fixed, entry, byte = _nnls(rows[:, :2], rows[:, 2], np.sqrt(rows[:, 3]))
    return Linear(fixed_us=round(fixed / 1e3, 3), entry_us=round(entry / 1e3, 5), byte_ns=round(byte, 5))


def _nnls(x: NDArray[Any], y: NDArray[Any], weight: NDArray[Any]) -> list[float]:
    """[constant, coefficient of each column of x], none negative, that fit y best relative to its size."""
    columns = np.column_stack([np.ones(len(x)), x])
    scale = weight / np.maximum(y, 1.0)
    norms = np.maximum(np.abs(columns).max(axis=0), 1e-9)
    solution, _ = nnls(columns / norms * scale[:, None], y * scale)
    return [float(value) for value in solution / norms]


def _fit_link(reports: Sequence[PeerReport]) -> Link:
    """What packets cost the loop beside the stages, and other threads."""
    loop, background, packets = [], [], []
    for report in reports:
        counters = report.counters
        staged_ns = sum(stage.cpu_ns for name, stage in report.stages.items() if not name.endswith(_THREAD))
        threads_ns = sum(stage.cpu_ns for name, stage in report.stages.items() if name.endswith(_THREAD))
        loop.append(max(0.0, report.loop_ns - staged_ns))
        background.append(max(0.0, report.total_ns - report.loop_ns - threads_ns - counters.get("disk_cpu_ns", 0)))
        packets.append(
            (
                counters.get("packets_sent", 0),
                counters.get("packets_received", 0),
                counters.get("bytes_sent", 0) + counters.get("bytes_received", 0),
            )
        )
    table = np.array(packets, dtype=np.float64)
    ones = np.ones(len(table))
    _, sent, received, byte = _nnls(table, np.array(loop), ones)
    both = np.column_stack([table[:, 0] + table[:, 1], table[:, 2]])
    _, packet, background_byte = _nnls(both, np.array(background), ones)
    return Link(
        delay_us=0.0,
        send=Linear(fixed_us=round(sent / 1e3, 3), byte_ns=round(byte, 5)),
        receive=Linear(fixed_us=round(received / 1e3, 3), byte_ns=round(byte, 5)),
        background=Linear(fixed_us=round(packet / 1e3, 3), byte_ns=round(background_byte, 5)),
    )


def _with_delay(model: Model, transport: str, cell: Cell, measured: Measurement) -> Model:
    """The model with the link's delay such that `cell` takes as long as measured (a proposal crosses the link twice)."""
    delay_us = 0.0
    for _ in range(3):
        predicted = run_sim(cell, msgspec.structs.replace(_TRAINING, seconds=0.3, warmup_seconds=0.05), model)
        delay_us = max(0.0, delay_us + (measured.latency.mean - predicted.latency.mean) / 2e3)
        link = msgspec.structs.replace(model.hardware.links[transport], delay_us=round(delay_us, 2))
        links = {**model.hardware.links, transport: link}
        model = msgspec.structs.replace(model, hardware=msgspec.structs.replace(model.hardware, links=links))
    return model
