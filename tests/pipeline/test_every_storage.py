"""Every pipeline on every storage, in groups of one, three and five, with real bytes: what was acknowledged is where it belongs."""

from __future__ import annotations

import pytest

from rafttoy.cell import Plan
from rafttoy.member import Member
from rafttoy.pipeline import PIPELINES
from rafttoy.proposal import payload_ids
from rafttoy.raft import EntryType
from rafttoy.run import run_cell
from rafttoy.sim.world import SimWorld
from rafttoy.storage import make_storage
from rafttoy.wire import Epoch
from tests.pipeline.group import KINDS, MODEL, cell_of, complete

PLAN = Plan(proposals=300, warmup_seconds=0.0, verify=True)


async def ids_in_log(member: Member) -> dict[int, int]:
    """{index: id of the proposal that stands there}, of everything committed."""
    assert member.peer is not None
    found = {}
    for batch in await member.peer.storage.read_log(1, member.peer.node.commit + 1):
        if batch.type is EntryType.NORMAL and batch.payload_bytes:
            found.update(zip(range(batch.first, batch.last + 1), payload_ids(batch), strict=True))
    return found


SIZES = [(kind, 3) for kind in KINDS] + [(kind, nodes) for kind in (("split", "file", "mem"), ("leveldb",) * 3) for nodes in (1, 5)]


@pytest.mark.parametrize(("kind", "nodes"), SIZES, ids=[f"{'+'.join(kind)}-{nodes}" for kind, nodes in SIZES])
@pytest.mark.parametrize("pipeline", PIPELINES)
def test_runs_and_is_verified(pipeline: str, kind: tuple[str, str, str], nodes: int) -> None:
    cell = cell_of(kind, pipeline=pipeline, nodes=nodes)
    world = SimWorld(MODEL, "tcp", seed=1)
    m = world.run(cell, PLAN, Epoch(1, 1), content=True)
    assert m.verified
    assert not m.partial
    assert (m.warnings, m.failed, m.late) == ([], 0, 0)
    assert 300 <= m.ops < 300 + cell.conc
    assert m.latency.count == m.ops
    assert m.batches.count * m.batches.mean == pytest.approx(m.ops, abs=0.01 * m.batches.count)
    assert sorted(m.reports) == list(range(1, nodes + 1))

    # The run verified itself; here is what it means, told by what the logs hold.
    members = list(world.members.values())
    logs = [complete(world, ids_in_log(member)) for member in members]
    assert all(log == logs[0] for log in logs)
    ids = list(logs[0].values())
    assert ids == sorted(ids)  # no proposal was lost, repeated or moved on the way
    assert ids == list(range(ids[0], ids[0] + len(ids)))
    leader = members[0].peer
    assert leader is not None
    acknowledged = [id for run in leader.tracker.acknowledged_runs for id in range(run.first_id, run.first_id + run.last - run.first + 1)]
    assert acknowledged == ids[: len(acknowledged)]
    assert len(acknowledged) >= m.ops
    assert len(leader.tracker) == 0

    digests = [complete(world, member.storage.digest()) for member in members]  # type: ignore[union-attr]
    empty = digest_of_nothing(kind)
    if "lazy-follower" in pipeline:
        assert digests[0] != empty
        assert all(digest == empty for digest in digests[1:])  # followers applied nothing
    else:
        assert len(set(digests)) == 1
        assert digests[0] != empty


def digest_of_nothing(kind: tuple[str, str, str]) -> str:
    storage, wal, engine = kind
    world = SimWorld(MODEL, "tcp", seed=1)
    empty = make_storage(world.add_member(1, 1, cell_of(kind), PLAN).ports, storage=storage, wal=wal, engine=engine)

    async def digest() -> str:
        await empty.open()
        return await empty.digest()

    return complete(world, digest())


def test_there_are_logs_engines_and_combined_stores_to_test() -> None:
    assert {"mem", "file"} <= {wal for storage, wal, _ in KINDS if storage == "split"}
    assert {"mem", "leveldb"} <= {engine for storage, _, engine in KINDS if storage == "split"}
    assert ("leveldb", "leveldb", "leveldb") in KINDS


@pytest.mark.parametrize("pipeline", PIPELINES)
@pytest.mark.parametrize("transport", ["grpc", "mem"])
def test_other_transports(pipeline: str, transport: str) -> None:
    cell = cell_of(("split", "file", "mem"), pipeline=pipeline, transport=transport)
    assert SimWorld(MODEL, transport, seed=1).run(cell, PLAN, Epoch(1, 1), content=True).verified


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_large_proposals_and_open_loops(pipeline: str) -> None:
    """Batches of a mebibyte, evicted from the cache before they are sent, applied and verified."""
    plan = Plan(proposals=100, warmup_seconds=0.0, verify=True, cache_bytes=1 << 18)
    cell = cell_of(("split", "file", "mem"), pipeline=pipeline, conc=8, bytes=128 << 10)
    assert SimWorld(MODEL, "tcp", seed=1).run(cell, plan, Epoch(1, 1), content=True).verified
    cell = cell_of(("split", "file", "mem"), pipeline=pipeline, conc=0, rate=5000.0)
    m = SimWorld(MODEL, "tcp", seed=1).run(cell, PLAN, Epoch(1, 1), content=True)
    assert m.verified
    assert m.ops >= 300


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_sizes_run_as_bytes_do(pipeline: str) -> None:
    """Without content the same events happen at the same times: a model run may leave it out."""
    cell = cell_of(("split", "file", "leveldb"), pipeline=pipeline)
    plan = Plan(seconds=0.02, warmup_seconds=0.005)
    with_bytes, with_sizes = (SimWorld(MODEL, "tcp", seed=3).run(cell, plan, Epoch(1, 1), content=content) for content in (True, False))
    assert with_bytes.ops > 0
    assert with_sizes.latency == with_bytes.latency
    assert with_sizes.batches == with_bytes.batches
    assert with_sizes.ops == with_bytes.ops
    for id, report in with_bytes.reports.items():
        assert with_sizes.reports[id].stages == report.stages
        assert with_sizes.reports[id].loop_ns == report.loop_ns


def test_several_epochs_on_the_same_members() -> None:
    """Run after run, with other pipelines, storages and sizes, on members that are never restarted."""
    world = SimWorld(MODEL, "tcp", seed=1)
    runs = [
        cell_of(("split", "file", "mem"), pipeline="basic"),
        cell_of(("split", "file", "mem"), pipeline="async-storage", bytes=300),
        cell_of(("split", "mem", "mem"), pipeline="async-apply-early-ack-lazy-follower"),
        cell_of(("leveldb", "leveldb", "leveldb"), pipeline="parallel-append", conc=40),
        cell_of(("split", "file", "leveldb"), pipeline="parallel-append-early-ack"),
    ]
    members = world.start(runs[0], PLAN)
    for i, cell in enumerate(runs):
        epoch = Epoch(1, i + 1)
        m = complete(world, run_cell(members[0], cell, PLAN, epoch, content=True))
        assert m.verified, cell
        assert [member.epoch for member in members] == [epoch] * 3
        assert [member.cell for member in members] == [cell] * 3
        assert [member.failure for member in members] == [None] * 3
