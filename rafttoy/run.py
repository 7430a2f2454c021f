"""One run of one cell, as its leader sees it: elect, load, measure, verify, report. The same coroutine in both worlds."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from rafttoy.cell import Cell, Plan
from rafttoy.control import PeerReport
from rafttoy.errors import CheckFailed, RunError
from rafttoy.harness import harness_ceiling
from rafttoy.member import Member
from rafttoy.observe import Summary
from rafttoy.peer import Peer
from rafttoy.proposal import AcknowledgedRun, payload_ids
from rafttoy.raft.entries import EntryType
from rafttoy.storage.api import SNAPSHOT_LIMIT_BYTES
from rafttoy.wire import Epoch
from rafttoy.workload import ClosedLoop, OpenLoop, make_load

__all__ = ["Measurement", "run_cell"]

_WATCH_NS = 20_000_000
_STUCK_NS = 10_000_000_000
_HELD_UP_NS = 60_000_000_000
"""If no connection was lost, so long may stores hold up every write: LevelDB with a dozen tables in its first level merges them before
it takes another, which took up to 11 s where three peers at full load share two slow cores."""


class Measurement(msgspec.Struct, kw_only=True):
    """What a run gave. Times in seconds, latencies in ns, batch sizes in proposals acknowledged at once. `harness_ops_per_s` is what
    the same load reaches with nothing behind it, where that was measured."""

    ops: int
    seconds: float
    latency: Summary
    batches: Summary
    late: int
    failed: int
    reports: dict[int, PeerReport]
    verified: bool | None
    partial: bool
    warnings: list[str]
    harness_ops_per_s: float | None = None


async def run_cell(
    member: Member,
    cell: Cell,
    plan: Plan,
    epoch: Epoch,
    *,
    content: bool,
    samples: bool = False,
    expected: Sequence[AcknowledgedRun] = (),
    ceilings: dict[tuple[int, int, bool], float] | None = None,
    window: Callable[[bool], None] = lambda open: None,
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[[float], None] = lambda share: None,
) -> Measurement:
    """Runs `cell` with `member` as its leader. With `stop()` true the run ends early and its result is partial. `expected` was
    acknowledged in an earlier life of the group: it is looked for before the load begins. `ceilings` are those of the harness in this
    process, by load: one that is not among them is measured now, between election and load, and kept there. `window` is told when the
    measured time begins (True) and when it is over.

    Raises RunError (no answer, no quorum, not elected), CheckFailed (verification), StorageError (this peer's disk)."""
    peer = await member.lead(epoch, cell, plan, stop)
    if expected:
        await _verify(member, peer, cell, expected)
    ports = member.ports
    harness = None
    if ceilings is not None:
        name = (cell.conc, cell.bytes, bool(cell.rate))
        if name not in ceilings:
            ceilings[name] = await harness_ceiling(ports, cell, plan, content=content)
        harness = ceilings[name]
    first_id = (peer.node.term << 40) + 1  # unique across the leaderships of a group that is resumed
    load = make_load(ports, cell, plan, peer.propose, content=content, first_id=first_id)
    peer.client = load

    def measure() -> None:
        member.mark_all()
        window(True)

    load.on_measure = measure
    load.start()
    pacer = ports.tasks.spawn(load.run(), "load")
    try:
        await _watch(member, peer, load, plan, stop, progress)
    finally:
        if load.started_ns:
            window(False)
        load.stop()
        pacer.cancel()
    reports = await member.report_all(digests=False, samples=samples)
    warnings = [f"no report from peer {id}" for id in member.ids if id not in reports]
    warnings += [f"lost the connection to peer {id} {losses} time(s)" for id, losses in sorted(member.lost.items())]
    if load.losses:
        warnings.append(f"{load.losses} proposals failed: the leadership was lost on the way")
    if peer.stranded:
        warnings.append(
            "a peer that was away lacks entries that the log no longer holds, and the content is larger than a snapshot may be "
            f"({SNAPSHOT_LIMIT_BYTES >> 20} MiB): it stays behind"
        )
    verified = None
    if plan.verify:
        await _drain(member, peer, load)
        await _verify(member, peer, cell, peer.tracker.acknowledged_runs)
        verified = True
    seconds = max(1, load.ended_ns - load.started_ns) / 1e9 if load.started_ns else 0.0
    return Measurement(
        ops=load.ops,
        seconds=seconds,
        latency=load.latency.summary(),
        batches=load.batches.summary(),
        late=load.late,
        failed=load.losses,
        reports=reports,
        verified=verified,
        partial=not _complete(load, plan),
        warnings=warnings,
        harness_ops_per_s=harness,
    )


def _complete(load: ClosedLoop | OpenLoop, plan: Plan) -> bool:
    if plan.proposals:
        return load.ops >= plan.proposals
    return bool(load.started_ns) and load.ended_ns - load.started_ns >= int(plan.seconds * 1e9)


async def _watch(
    member: Member,
    peer: Peer,
    load: ClosedLoop | OpenLoop,
    plan: Plan,
    stop: Callable[[], bool],
    progress: Callable[[float], None],
) -> None:
    """Until the load is done: keeps the leadership, and gives up when nothing is acknowledged any more."""
    clock = member.ports.clock
    begin_ns = clock.now_ns()
    whole_ns = int((plan.warmup_seconds + plan.seconds) * 1e9)
    while not load.ended_ns:
        await clock.sleep_ns(_WATCH_NS)
        now_ns = clock.now_ns()
        if member.failure is not None:
            raise member.failure
        if member.peer is not peer:
            raise RunError(f"peer {member.id}: another leader began a newer run")
        if stop():
            return
        if not plan.proposals and load.started_ns and not load.outstanding and now_ns > load.started_ns + int(plan.seconds * 1e9):
            return
        if load.outstanding:
            _check_silence(member, plan, now_ns - load.last_ack_ns)
        member.seek_leadership(peer)
        if peer.is_leader:
            load.retry()
        progress(load.ops / plan.proposals if plan.proposals else (now_ns - begin_ns) / whole_ns)


def _check_silence(member: Member, plan: Plan, silent_ns: int) -> None:
    """Raises RunError where nothing has been acknowledged for too long."""
    limit_ns = int(plan.connect_seconds * 1e9)
    if member.lost and silent_ns > limit_ns:
        lost = ", ".join(map(str, sorted(member.lost)))
        raise RunError(f"nothing was acknowledged for {plan.connect_seconds:g} s: no quorum (connections lost: {lost})")
    if silent_ns > max(limit_ns, _HELD_UP_NS):
        raise RunError(
            f"nothing was acknowledged for {silent_ns / 1e9:.0f} s, and no connection was lost: a disk or a store hangs, or packets vanish"
        )


async def _drain(member: Member, peer: Peer, load: ClosedLoop | OpenLoop) -> None:
    clock = member.ports.clock
    deadline_ns = clock.now_ns() + _STUCK_NS
    while not load.drained() and clock.now_ns() < deadline_ns and member.failure is None:
        member.seek_leadership(peer)
        await clock.sleep_ns(_WATCH_NS)


async def _verify(member: Member, peer: Peer, cell: Cell, acknowledged: Sequence[AcknowledgedRun]) -> None:
    """Every peer holds the same committed log and the same engine content, and every acknowledged proposal is in them.

    Raises CheckFailed saying which peer differs and how."""
    clock = member.ports.clock
    deadline_ns, seen = clock.now_ns() + _STUCK_NS, -1
    while True:
        member.seek_leadership(peer)
        last = peer.storage.log.last_index()
        reports = await member.report_all(digests=False, samples=False)
        behind = [id for id, report in reports.items() if not report.log_digest.startswith(f"{last}/")]
        if not behind and len(reports) > len(member.ids) // 2:
            break  # a peer that is gone cannot be compared; the quorum that stands can
        if (progress := last + sum(report.applied for report in reports.values())) != seen:
            deadline_ns, seen = clock.now_ns() + _STUCK_NS, progress
        if clock.now_ns() > deadline_ns:
            raise CheckFailed(f"verify: peers {behind} have not committed index {last}, and nothing moved for {_STUCK_NS // 10**9} s")
        await clock.sleep_ns(_WATCH_NS)
    reports = await member.report_all(digests=True, samples=False, seconds=60.0)
    own = reports[member.id]
    applying = [id for id in reports if id == member.id or not cell.pipeline.endswith("lazy-follower")]
    for id, report in sorted(reports.items()):
        if report.log_digest != own.log_digest:
            raise CheckFailed(f"verify: the log of peer {id} is {report.log_digest}, of peer {own.id} {own.log_digest}")
        if id in applying and report.engine_digest != own.engine_digest:
            raise CheckFailed(f"verify: the engine of peer {id} is {report.engine_digest}, of peer {own.id} {own.engine_digest}")
    await _verify_acknowledged(peer, acknowledged)


async def _verify_acknowledged(peer: Peer, runs: Sequence[AcknowledgedRun]) -> None:
    """The log, read back from where it is stored, holds each acknowledged proposal at its index."""
    for run in runs:
        index, id = run.first, run.first_id
        for batch in await peer.storage.read_log(run.first, run.last + 1):
            if batch.first != index or batch.term != run.term or batch.type is not EntryType.NORMAL:
                raise CheckFailed(f"verify: acknowledged index {index} of term {run.term} is {batch} in the log")
            if id:
                found = payload_ids(batch)
                if found != list(range(id, id + batch.count)):
                    raise CheckFailed(f"verify: acknowledged proposals {id}… are not at index {index}")
                id += batch.count
            index = batch.last + 1
        if index != run.last + 1:
            raise CheckFailed(f"verify: acknowledged index {index} is missing from the log")
