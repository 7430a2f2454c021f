"""What peers wait for, found by simulating the training cells until they take as long as the real ones.

A disk under a group of peers is slower than by itself (they sync at the same time, share its cores, and other files are written): for each
group its sync is scaled, by the bytes written at once, and its slow saves are spread as theirs. The one-way delay of a link is what makes
the training cells of lowest concurrency as slow as the measured ones, and what a group adds to it. What is still missing where stores
write is put down to their flushes, and how far the slowest proposals are from the usual ones to the pace of the host.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from rafttoy.analysis.fits import put_bytes, runs_of, typical
from rafttoy.analysis.pool import Simulate, one_by_one
from rafttoy.cell import Cell, Plan
from rafttoy.ports import KV_INLINE_BYTES
from rafttoy.proposal import OVERHEAD_BYTES
from rafttoy.run import Measurement
from rafttoy.sim.model import Costs, Disk, DiskUse, Model, interpolated
from rafttoy.storage import is_durable

__all__ = [
    "LEARNT_PIPELINE",
    "groups_of",
    "save_us",
    "with_delays",
    "with_groups",
    "with_pace",
    "with_saves",
    "with_stalls",
]

LEARNT_PIPELINE = "parallel-append"
"""That of the training cells, where nothing is said about it."""

_SIMULATED = Plan(seconds=0.1, warmup_seconds=0.03)
_SAVES = 200
_SHORTEST_S, _LONGEST_S = 0.1, 0.5
"""How many saves of each peer are simulated, and for how long at least and at most: which of 60 is the slowest in a hundred is a matter of
luck (a spread of 2.2 came out between 1.5 and 2.2)."""

_PACED = Plan(seconds=0.17, warmup_seconds=0.03)
"""A host has all its paces in 80 ms."""

_STEPS, _DELAY_STEPS, _PACE_STEPS = 3, 2, 4
_LEAST, _MOST = 0.1, 30.0
"""Bounds of a factor on a sync: beyond them it is not the sync that the time went to."""

_NARROWEST, _WIDEST = 0.5, 4.0
"""Bounds of a sync's spread."""

_CALM_CONC = 200
"""Up to so many proposals in flight the store's flushes are not what the slowest of them waited for."""

_STOPS_SLOPE = 1.5
"""How strongly the number of stops answers where those who wait for a disk are too slow beside those in memory (logarithms): of 79 a second
18 are left after four steps on a host whose single clients on files were 62 % beyond, and all of 38 where they were not."""

_CHANCE = 0.2
"""Up to so much (of a logarithm) the slowest proposals of short runs differ by chance; stops that the probe met must not go for that."""

_MOST_PACE = 0.5
_SLOWEST_OF_PACE = 1.3
"""With a pace and nothing else, the slowest proposal in a hundred takes exp(1.3 * pace) times the median: there are sixteen paces, and
fewer proposals in the slow ones."""


def groups_of(training: Sequence[tuple[Cell, Any]]) -> list[str]:
    return list(dict.fromkeys(cell.group_name() for cell, _ in training))


def with_groups(model: Model, groups: dict[str, Costs]) -> Model:
    return msgspec.structs.replace(model, software=msgspec.structs.replace(model.software, groups=groups))


def with_delays(model: Model, training: Sequence[tuple[Cell, Measurement]], simulate: Simulate = one_by_one) -> Model:
    """The model with delays of links such that the two cells of lowest concurrency of each group take as long as measured in the median, on
    average (a proposal crosses the link twice): a link's delay is that of its quickest group, and what others add is theirs."""
    groups = dict(model.software.groups)
    taken_ns = {cell: statistics.median(m.latency.p50 for m in own) for cell, own in runs_of(training).items()}
    fewest: dict[str, list[Cell]] = {}
    delays: dict[str, float] = {}
    for name in groups_of(training):
        learnt = [cell for cell in taken_ns if cell.group_name() == name and cell.pipeline == LEARNT_PIPELINE]
        fewest[name] = sorted(learnt, key=lambda cell: cell.conc)[:2]
        transport = name.rpartition(" ")[2]
        delays[name] = model.hardware.links[transport].delay_us + groups[name].links[transport].late_us
    for _ in range(_DELAY_STEPS):
        runs = [(cell, _SIMULATED, _delayed(model, name, delays[name])) for name, few in fewest.items() for cell in few]
        simulated = iter(simulate(runs))
        for name, few in fewest.items():
            missing_us = statistics.fmean(taken_ns[cell] - next(simulated).latency.p50 for cell in few) / 1e3
            delays[name] = max(0.0, delays[name] + missing_us / 2)
    for transport in model.hardware.links:
        own = {name: delay_us for name, delay_us in delays.items() if name.rpartition(" ")[2] == transport}
        quickest_us = round(min(own.values()), 2)
        model = _with_link(model, transport, delay_us=quickest_us)
        for name, delay_us in own.items():
            groups[name] = _late(groups[name], transport, delay_us - quickest_us)
    return with_groups(model, groups)


def _delayed(model: Model, name: str, delay_us: float) -> Model:
    """The model for cells of a group whose link has that delay."""
    transport = name.rpartition(" ")[2]
    return with_groups(_with_link(model, transport, delay_us=delay_us), {name: _late(model.software.groups[name], transport, 0.0)})


def _late(costs: Costs, transport: str, late_us: float) -> Costs:
    """The costs with that on top of the delay of the group's link."""
    work = msgspec.structs.replace(costs.links[transport], late_us=round(late_us, 2))
    return msgspec.structs.replace(costs, links={**costs.links, transport: work})


def _with_link(model: Model, transport: str, **costs: float) -> Model:
    link = msgspec.structs.replace(model.hardware.links[transport], **costs)
    links = {**model.hardware.links, transport: link}
    return msgspec.structs.replace(model, hardware=msgspec.structs.replace(model.hardware, links=links))


def with_saves(model: Model, training: Sequence[tuple[Cell, Measurement]], simulate: Simulate = one_by_one) -> Model:
    """The model in which the saves of those cells take as long as measured, in the median (one stall of 200 ms in a second makes a mean
    of twice that, and a model of low load that is half as fast as the host), and the slowest in a hundred as many times longer: for each
    group a factor on the sync, and a width of its distribution, for each number of bytes that its cells wrote at once. How wide it is where
    stores flushed says the next smaller number: while they do, a save waits for them."""
    once, runs = typical(training), runs_of(training)
    save_took_us = {cell: statistics.median(map(save_us, own)) for cell, own in runs.items()}
    tails = {cell: statistics.median(map(_tail, own)) for cell, own in runs.items()}
    for _ in range(_STEPS):
        groups = dict(model.software.groups)
        simulated = simulate([(cell, _saving(measured), model) for cell, measured in once])
        for name in groups_of(once):
            octaves: dict[int, list[tuple[float, float, float]]] = {}
            for (cell, measured), predicted in zip(once, simulated, strict=True):
                if cell.group_name() == name:
                    nbytes = _save_bytes(cell, measured)
                    disk = model.on(name).hardware.disk
                    flushed = any(report.counters.get("kv_buffers", 0) for report in measured.reports.values())
                    found = _sync_factors(disk, nbytes, predicted, save_took_us[cell], math.nan if flushed else tails[cell])
                    octaves.setdefault(round(math.log2(nbytes)), []).append((nbytes, *found))
            at, times, spreads = zip(*(map(_mean_known, zip(*octaves[octave], strict=True)) for octave in sorted(octaves)), strict=True)
            groups[name] = _under(
                groups.get(name, Costs()),
                model.hardware.disk,
                at=tuple(round(nbytes, 1) for nbytes in at),
                times=tuple(round(factor, 3) for factor in times),
                spreads=tuple(round(spread, 3) for spread in _carried(spreads)),
            )
        model = with_groups(model, groups)
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


def _saving(measured: Measurement) -> Plan:
    """A run with enough saves."""
    seconds = min(_LONGEST_S, max(_SHORTEST_S, _SAVES * measured.seconds / max(1, measured.batches.count)))
    return msgspec.structs.replace(_SIMULATED, seconds=seconds)


def _sync_factors(disk: Disk, nbytes: float, simulated: Measurement, took_us: float, tail: float) -> tuple[float, float]:
    """What the sync of so many bytes is to be multiplied with for a save to take so long (all that is missing is the sync's), and the
    spread that makes the slowest saves so much slower (`tail`; NaN: unknown)."""
    factor = interpolated(disk.at, disk.times, nbytes) + (took_us - save_us(simulated)) / _median_sync_us(disk)
    spread = interpolated(disk.at, disk.spreads, nbytes) * tail / _tail(simulated)
    return min(_MOST, max(_LEAST, factor)), spread if math.isnan(spread) else min(_WIDEST, max(_NARROWEST, spread))


def with_pace(model: Model, training: Sequence[tuple[Cell, Measurement]], simulate: Simulate = one_by_one) -> Model:
    """The model in whose cells of few proposals (no store flushes meanwhile) the slowest in a hundred take as many times the median as
    measured, in the median of cells: variances of logarithms add up. Stops of a core meet most rounds that wait for a disk and few of those
    in memory, a pace both: where the former are too long beside the latter, the probe, which kept every core busy, met too many."""
    calm = [(cell, m) for cell, m in training if cell.conc <= _CALM_CONC and cell.pipeline == LEARNT_PIPELINE]
    wanted = {cell: statistics.median(map(_slowest, runs)) for cell, runs in runs_of(calm).items()}
    stops, share = model.hardware.interruptions, 1.0
    pace = model.hardware.pace
    for _ in range(_PACE_STEPS):
        found = dict(zip(wanted, map(_slowest, simulate([(cell, _PACED, model) for cell in wanted])), strict=True))
        short = statistics.median(wanted[cell] ** 2 - found[cell] ** 2 for cell in wanted)
        pace = math.sqrt(min(_MOST_PACE**2, max(0.0, pace**2 + short / _SLOWEST_OF_PACE**2)))
        hardware = msgspec.structs.replace(model.hardware, pace=round(pace, 4))
        if stops is not None:
            beyond = {cell: found[cell] - wanted[cell] for cell in wanted}
            share = min(1.0, share * math.exp(-_STOPS_SLOPE * _too_many(beyond, paced=pace > 0)))
            hardware = msgspec.structs.replace(hardware, interruptions=msgspec.structs.replace(stops, per_s=round(share * stops.per_s, 2)))
        model = msgspec.structs.replace(model, hardware=hardware)
    return model


def _too_many(beyond: Mapping[Cell, float], *, paced: bool) -> float:
    """How far the slowest proposals that wait for a disk are beyond those in memory; where there is no pace that could be too much,
    beyond the measured ones."""
    synced = [excess for cell, excess in beyond.items() if is_durable(cell.storage, cell.wal)]
    others = [excess for cell, excess in beyond.items() if not is_durable(cell.storage, cell.wal)]
    if not paced:
        excess = statistics.median(beyond.values())
    else:
        excess = statistics.median(synced) - statistics.median(others) if synced and others else 0.0
    return excess if abs(excess) > _CHANCE else 0.0


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


def with_stalls(model: Model, training: Sequence[tuple[Cell, Measurement]], simulate: Simulate = one_by_one) -> Model:
    """The model in which applying takes as long as measured where stores write on their own threads: what is missing, beyond their CPU
    time, is put down to flushes and compactions, by the byte."""
    groups = dict(model.software.groups)
    applied = {}  # (bytes of a batch, how long it took), where it is the store's own thread that writes it
    for cell, runs in runs_of(training).items():
        batch = statistics.median(next(iter(m.reports.values())).metrics["apply_batch_sizes"]["mean"] for m in runs)
        nbytes = batch * (cell.bytes + OVERHEAD_BYTES)
        if nbytes > KV_INLINE_BYTES:
            applied[cell] = nbytes, statistics.median(map(_apply_us, runs))
    simulated = dict(zip(applied, simulate([(cell, _SIMULATED, model) for cell in applied]), strict=True))
    for name, costs in groups.items():
        over = under = 0.0
        for cell, (nbytes, took_us) in applied.items():
            if cell.group_name() == name:
                missing_us = took_us - _apply_us(simulated[cell])
                over, under = over + missing_us * nbytes / took_us**2, under + nbytes**2 / took_us**2
        if under:
            kv = {
                kind: msgspec.structs.replace(store, stall_byte_ns=round(max(0.0, store.stall_byte_ns + 1e3 * over / under), 3))
                for kind, store in costs.kv.items()
                if kind != "dict"
            }
            groups[name] = msgspec.structs.replace(costs, kv=costs.kv | kv)
    return with_groups(model, groups)


def _apply_us(measurement: Measurement) -> float:
    return float(next(iter(measurement.reports.values())).metrics["apply_latency_us"]["mean"])


def save_us(measurement: Measurement) -> float:
    """Of all peers: who comes second to the device waits longer, and that may be the leader or a follower."""
    return statistics.fmean(report.metrics["append_latency_us"]["p50"] for report in measurement.reports.values())


def _median_sync_us(disk: Disk) -> float:
    return float(np.interp(50.0, disk.percents(), disk.sync_us))
