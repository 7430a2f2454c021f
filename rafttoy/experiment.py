"""A frozen cell, run in a world, gives a result. The only thing that the command line and the analyses call."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from rafttoy.analysis.ceiling import Ceiling, ceiling
from rafttoy.analysis.cputime import cpu_us_per_op
from rafttoy.analysis.manifest import manifest
from rafttoy.analysis.models import outside
from rafttoy.cell import MAX_PAYLOAD_BYTES, Cell, Plan
from rafttoy.control import PeerReport, StageTotals
from rafttoy.errors import ConfigError, unknown
from rafttoy.observe import Summary
from rafttoy.pipeline import PIPELINES
from rafttoy.run import Measurement
from rafttoy.sim.model import Model
from rafttoy.storage import ENGINES, STORAGES, is_durable, parse_wal
from rafttoy.worlds import TRANSPORTS, WORLDS, check_sync, cores, drive_cluster, idle_mode, run_local, run_sim

__all__ = ["Cell", "Cluster", "Plan", "Progress", "Result", "run_grid", "validate"]

Progress = Callable[[str, float], None]
"""Called with (what goes on now, share done of the whole grid 0..1); on a terminal it moves a bar."""

_BINDS_FROM = 0.7
"""A resource that is busy for a smaller share of the time does not bind: the round trips' latency does."""

_INSTRUMENT_WITHIN = 2.0
"""A result that reaches the harness's own throughput to within this factor is the instrument's as much as the group's."""


class Cluster(msgspec.Struct, frozen=True):
    """A running cluster: `peers` are the addresses of nodes 1…N, `id` is the member (the leader) that runs here."""

    id: int
    peers: tuple[str, ...]


class Result(msgspec.Struct, kw_only=True, omit_defaults=False):
    """One run of one cell: one JSON line. Latencies in µs; `batch` is proposals an append of the leader.

    utilisation   share of the measured time that a resource was busy: `leader` and `follower` (the busiest one's event loop),
                  `cores` (peers' CPU time over their host's cores; of several hosts the busiest), `disk` (the busiest peer's disk)
    stages        {stage: {count, entries, bytes, cpu_us, cpu_us_per_op}} of the leader; the followers' sums as `follower/stage`
    cpu_us_per_op CPU time of processes and their threads for each acknowledged proposal: `leader`, `leader/loop`, `leader/disk` and
                  `leader/rest`, `follower-2` and so on, `total` (see `rafttoy.analysis.cputime`)
    sync          how writes were made durable: fdatasync, dsync, or none
    idle          what the processors of the leader's host did while they were idle: poll, or sleep (None in the model)
    counters      of the leader's storage and links; `wal_syncs` among them
    write_amplification   bytes written to the host's device, by anyone, for each byte of payload that each of its peers appended
                  (of a local cluster; None elsewhere)
    harness_ops_per_s     what the same load reaches in the same leader's process with nothing behind it: no core, log, links or engine
                  (None in the model); a result within a factor of 2 of it is warned of
    ceiling       of a simulated run: the closed form of the same cell and model
    interval      of a prediction: {`ops_per_s`, `p50_us`, `p99_us`: [low, high]}, where the model says how well it was fitted
    """

    world: str
    pipeline: str
    wal: str
    engine: str
    storage: str
    transport: str
    conc: int
    rate: float
    arrival: str
    bytes: int
    nodes: int
    seed: int
    sync: str
    idle: str | None = None
    ops: int
    seconds: float
    ops_per_s: float
    mb_per_s: float
    latency_us: dict[str, float]
    batch: dict[str, float]
    utilisation: dict[str, float]
    binding: str
    stages: dict[str, dict[str, float]]
    cpu_us_per_op: dict[str, float] = {}
    metrics: dict[str, dict[str, float]]
    counters: dict[str, float]
    write_amplification: float | None
    harness_ops_per_s: float | None = None
    late: int
    verified: bool | None
    partial: bool
    warnings: list[str]
    manifest: dict[str, Any]
    error_pct: float | None = None
    ceiling: Ceiling | None = None
    interval: dict[str, tuple[float, float]] | None = None

    def cell(self) -> Cell:
        return Cell(**{name: getattr(self, name) for name in Cell.__struct_fields__})


def validate(cell: Cell, plan: Plan) -> None:
    """Raises ConfigError naming the flag that does not fit, with the near miss and the list of what would."""
    if cell.pipeline not in PIPELINES:
        raise unknown("--pipeline", cell.pipeline, PIPELINES)
    if cell.storage not in STORAGES:
        raise unknown("--storage", cell.storage, STORAGES)
    parse_wal(cell.wal)
    if cell.engine not in ENGINES:
        raise unknown("--engine", cell.engine, ENGINES)
    if cell.transport not in TRANSPORTS:
        raise unknown("--transport", cell.transport, TRANSPORTS)
    if cell.arrival not in ("constant", "poisson"):
        raise unknown("--arrival", cell.arrival, ("constant", "poisson"))
    if cell.rate < 0 or cell.conc < 0 or (not cell.rate and cell.conc < 1):
        raise ConfigError(f"--conc and --rate are positive, not {cell.conc} and {cell.rate:g}")
    if not 1 <= cell.bytes <= MAX_PAYLOAD_BYTES:
        raise ConfigError(f"--bytes is from 1 to {MAX_PAYLOAD_BYTES}, not {cell.bytes}")
    if cell.nodes < 1:
        raise ConfigError(f"--nodes is at least 1, not {cell.nodes}")
    if plan.proposals < 0 or (not plan.proposals and plan.seconds <= 0) or plan.warmup_seconds < 0:
        raise ConfigError("--duration and --proposals are positive, --warmup is not negative")


def run_grid(
    world: str,
    cells: Sequence[Cell],
    plan: Plan,
    *,
    count: int = 1,
    model: Model | None = None,
    data_dir: Path | None = None,
    cluster: Cluster | None = None,
    keep: bool = False,
    fresh: bool = False,
    cpus: Sequence[Sequence[int]] | None = None,
    profile: Path | None = None,
    flags: Mapping[str, str] | None = None,
    on_result: Callable[[Result], None] = lambda result: None,
    progress: Progress = lambda what, share: None,
    say: Callable[[str], None] = lambda line: None,
    verbose: bool = False,
) -> list[Result]:
    """Runs every cell `count` times in `world` ("real" or "sim"), seeds plan.seed, plan.seed + 1, … ; results as they come.

    With `keep` real peers keep their data in `data_dir`, and the first run goes on where the last one there ended (`fresh`: not).
    `cpus` are sets of processors that peers 1, 2, … are pinned to, round and round (of a `cluster`: the first, the leader; none:
    nobody is); without it peers on this host have their event loops pinned (`core_of`). `profile` is a file for what the leader does in
    the measured time. `say` is told what a person should know (a peer that died). Raises RunError, PeerError, StorageError or CheckFailed
    when a run fails; results handed to `on_result` before stand."""
    assert world in WORLDS
    for cell in cells:
        validate(cell, plan)
    made = manifest(flags or {})
    doubts: tuple[str, ...] = ()
    if world == "real" and plan.sync != "none" and any(is_durable(cell.storage, cell.wal) for cell in cells):
        report = _check_sync(data_dir)
        made["disk"], doubts = msgspec.to_builtins(report), report.doubts
    pinned = {cpu for each in cpus or () for cpu in each} if cluster is None else set()
    host = _Host(len(pinned) or cores(model), _apart(model, cluster), idle_mode(plan.idle) if world == "real" else None)
    runs = [(cell, msgspec.structs.replace(plan, seed=plan.seed + i)) for cell in cells for i in range(count)]
    results: list[Result] = []

    def add(cell: Cell, run_plan: Plan, measurement: Measurement) -> None:
        result = _result(world, cell, run_plan, measurement, host, made, local=world == "real" and cluster is None)
        if is_durable(cell.storage, cell.wal):
            result.warnings = [*doubts, *result.warnings]
        if profile is not None:
            result.warnings = [*result.warnings, f"profiled into {profile}: the leader was slower than it is without"]
        if model is not None:
            result.ceiling = ceiling(model, cell)
            result.warnings = [*result.warnings, *outside(model, cell), *_free_stages(model, result)]
        results.append(result)
        on_result(result)

    if world == "sim":
        assert model is not None
        for i, (cell, run_plan) in enumerate(runs):
            progress(str(cell), i / len(runs))
            add(cell, run_plan, run_sim(cell, run_plan, model))
        return results
    drive = functools.partial(drive_cluster, id=cluster.id, peers=cluster.peers) if cluster is not None else run_local
    begun = 0
    for batch in _by_configuration(runs):
        offset = begun

        def measured(i: int, measurement: Measurement, batch: list[tuple[Cell, Plan]] = batch) -> None:
            add(*batch[i], measurement)

        def moved(i: int, share: float, batch: list[tuple[Cell, Plan]] = batch, offset: int = offset) -> None:
            progress(str(batch[min(i, len(batch) - 1)][0]), (offset + i + min(share, 1.0)) / len(runs))

        moved(0, 0.0)
        drive(
            batch,
            data_dir=data_dir,
            on_measured=measured,
            progress=moved,
            say=say,
            verbose=verbose,
            keep=keep,
            fresh=fresh,
            cpus=cpus,
            harness=True,
            profile=profile,
        )
        begun += len(batch)
    return results


_check_sync = functools.cache(check_sync)  # a device does not change while this process lives


def _by_configuration(runs: Sequence[tuple[Cell, Plan]]) -> list[list[tuple[Cell, Plan]]]:
    """Neighbours that the same processes can run."""
    out: list[list[tuple[Cell, Plan]]] = []
    for run in runs:
        if out and out[-1][0][0].configuration() == run[0].configuration():
            out[-1].append(run)
        else:
            out.append([run])
    return out


class _Host(msgspec.Struct, frozen=True):
    """`apart`: each peer has one of its own. `idle` as in `Result`."""

    cores: int
    apart: bool
    idle: str | None


def _apart(model: Model | None, cluster: Cluster | None) -> bool:
    if model is not None:
        return model.hardware.hosts == "each"
    return cluster is not None and len({address.rpartition(":")[0] for address in cluster.peers}) > 1


def _result(world: str, cell: Cell, plan: Plan, m: Measurement, host: _Host, made: dict[str, Any], *, local: bool) -> Result:
    leader = next(iter(m.reports.values()))
    rate = m.ops / m.seconds if m.seconds else 0.0
    append = leader.metrics["append_batch_sizes"]
    utilisation = _utilisation(cell, m, leader, host)
    return Result(
        world=world,
        **{name: getattr(cell, name) for name in Cell.__struct_fields__},
        seed=plan.seed,
        sync=plan.sync,
        idle=host.idle,
        ops=m.ops,
        seconds=round(m.seconds, 6),
        ops_per_s=round(rate, 1),
        mb_per_s=round(rate * cell.bytes / 1e6, 3),
        latency_us=_micros(m.latency),
        batch={name: append[name] for name in ("mean", "p50", "p90", "p99", "max")},
        utilisation=utilisation,
        binding=_binding(utilisation),
        stages=_stages(m, leader),
        cpu_us_per_op=cpu_us_per_op(list(m.reports.values()), m.ops, one_process=cell.transport == "mem"),
        metrics=leader.metrics,
        counters={name: float(value) for name, value in leader.counters.items()},
        write_amplification=_write_amplification(cell, leader) if local else None,
        late=m.late,
        verified=m.verified,
        partial=m.partial,
        warnings=[*m.warnings, *_instrument_bound(rate, m.harness_ops_per_s)],
        manifest=made,
        harness_ops_per_s=round(m.harness_ops_per_s, 1) if m.harness_ops_per_s is not None else None,
    )


def _instrument_bound(ops_per_s: float, harness_ops_per_s: float | None) -> list[str]:
    if harness_ops_per_s is None or ops_per_s * _INSTRUMENT_WITHIN < harness_ops_per_s:
        return []
    return [f"instrument-bound: with nothing behind it the client reaches {harness_ops_per_s:,.0f} ops/s, less than twice this result"]


def _free_stages(model: Model, result: Result) -> list[str]:
    """A model that lacks a stage's cost is told of, once a run."""
    names = {name.removeprefix("follower/") for name in result.stages}
    model = model.on(result.cell().group_name())
    free = sorted(name for name in names if not name.startswith("kv.") and model.software.stage(name) is None)
    return [f"model {model.meta.name} has no cost for {', '.join(free)}: counted as free"] if free else []


def _write_amplification(cell: Cell, leader: PeerReport) -> float | None:
    """With all peers of `cell` on one device."""
    proposed = leader.stages.get("propose")
    device = leader.counters.get("device_bytes", 0)
    if proposed is None or not proposed.entries or not device:
        return None
    return round(device / (proposed.entries * cell.bytes * cell.nodes), 3)


def _micros(latency: Summary) -> dict[str, float]:
    return {name: round(getattr(latency, name) / 1e3, 1) for name in ("mean", "p50", "p90", "p99", "p999", "max")}


def _utilisation(cell: Cell, m: Measurement, leader: PeerReport, host: _Host) -> dict[str, float]:
    window_ns = max(1.0, m.seconds * 1e9)
    followers = [report for report in m.reports.values() if report.id != leader.id]
    one_process = cell.transport == "mem"
    gather = max if host.apart else sum
    total_ns = leader.total_ns if one_process else gather(report.total_ns for report in m.reports.values())
    shares = {
        "leader": leader.loop_ns / window_ns,
        "follower": max((report.loop_ns for report in followers), default=0) / window_ns if not one_process else 0.0,
        "cores": total_ns / window_ns / host.cores,
        "disk": max(report.counters.get("disk_busy_ns", 0) for report in m.reports.values()) / window_ns,
    }
    return {name: round(min(1.0, share), 4) for name, share in shares.items()}


def _binding(utilisation: Mapping[str, float]) -> str:
    """The busiest resource, where it is busy enough to bind; else `latency`: what is waited for is no queue."""
    name = max(utilisation, key=lambda resource: utilisation[resource])
    return name if utilisation[name] >= _BINDS_FROM else "latency"


def _stages(m: Measurement, leader: PeerReport) -> dict[str, dict[str, float]]:
    followers = [report for report in m.reports.values() if report.id != leader.id]
    out = {name: _stage([stage], m.ops) for name, stage in leader.stages.items()}
    for name in sorted({name for report in followers for name in report.stages}):
        out[f"follower/{name}"] = _stage([report.stages[name] for report in followers if name in report.stages], m.ops)
    return out


def _stage(stages: Sequence[StageTotals], ops: int) -> dict[str, float]:
    cpu_ns = sum(stage.cpu_ns for stage in stages)
    return {
        "count": sum(stage.count for stage in stages),
        "entries": sum(stage.entries for stage in stages),
        "bytes": sum(stage.nbytes for stage in stages),
        "cpu_us": round(cpu_ns / 1e3, 1),
        "cpu_us_per_op": round(cpu_ns / 1e3 / ops, 4) if ops else 0.0,
    }
