"""Whatever a pipeline does early, what it acknowledges is durable at a quorum; and a group that loses power keeps it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from rafttoy.cell import Cell, Plan
from rafttoy.peer import Peer
from rafttoy.pipeline import PIPELINES
from rafttoy.proposal import AcknowledgedRun, payload_ids
from rafttoy.raft import EntryType
from rafttoy.run import run_cell
from rafttoy.sim.store import RandomChoice, SimStore
from rafttoy.sim.world import SimWorld
from rafttoy.storage import make_storage
from rafttoy.wire import Epoch
from tests.pipeline.group import KINDS, cell_of, complete, make_model
from tests.storage.beds import SimBed

DURABLE = [kind for kind in KINDS if kind[1] != "mem"]
SLOW_DISK = make_model((3_000.0, 8_000.0, 30_000.0))
"""One disk for all, and every sync takes long and another time: whoever does not wait for his own is found out."""

PLAN = Plan(proposals=150, warmup_seconds=0.0, verify=True)


class Nothing:
    """A crash that keeps no more than it must."""

    def keep(self) -> bool:
        return False

    def prefix(self, count: int) -> int:
        return 0


@dataclass(slots=True)
class Image:
    """What the disks held, and all that had been acknowledged, at one moment."""

    acknowledged: list[AcknowledgedRun]
    disks: list[SimStore]


def run_with_images(cell: Cell, crash: Callable[[SimStore], SimStore], every: int) -> list[Image]:
    """Runs `cell`; at every so many acknowledgements, an image of a power loss at that very moment: before the client is told."""
    world = SimWorld(SLOW_DISK, "tcp", seed=5)
    members = world.start(cell, PLAN)
    acknowledged: list[AcknowledgedRun] = []
    images: list[Image] = []

    def note(run: AcknowledgedRun) -> None:
        acknowledged.append(run)
        if len(acknowledged) % every == 0:
            images.append(Image(list(acknowledged), [crash(member.ports.files.store) for member in members]))  # type: ignore[attr-defined]

    members[0].on_acknowledged = note
    complete(world, run_cell(members[0], cell, PLAN, Epoch(1, 1), content=True))
    return images


def recovered_log(kind: tuple[str, str, str], disk: SimStore) -> dict[int, tuple[int, int]]:
    """{index: (term, id)} of what a new incarnation finds on that disk."""

    async def read(ports: Any) -> dict[int, tuple[int, int]]:
        storage, wal, engine = kind
        opened = make_storage(ports, storage=storage, wal=wal, engine=engine)
        await opened.open()
        out = {}
        for batch in await opened.read_log(opened.log.first_index(), opened.log.last_index() + 1):
            if batch.type is EntryType.NORMAL and batch.payload_bytes:
                out.update({index: (batch.term, id) for index, id in enumerate(payload_ids(batch), batch.first)})
        await opened.close()
        return out

    return SimBed(disk).run(read)


def missing(kind: tuple[str, str, str], image: Image) -> list[tuple[int, int]]:
    """(index, id) of acknowledged proposals that fewer than a quorum of the disks hold."""
    logs = [recovered_log(kind, disk) for disk in image.disks]
    quorum = len(logs) // 2 + 1
    out = []
    for run in image.acknowledged:
        for index, id in zip(range(run.first, run.last + 1), range(run.first_id, run.first_id + run.last - run.first + 1), strict=True):
            if sum(log.get(index) == (run.term, id) for log in logs) < quorum:
                out.append((index, id))
    return out


@pytest.mark.parametrize("kind", DURABLE, ids="+".join)
@pytest.mark.parametrize("pipeline", PIPELINES)
def test_what_is_acknowledged_is_durable_at_a_quorum(pipeline: str, kind: tuple[str, str, str]) -> None:
    images = run_with_images(cell_of(kind, pipeline=pipeline, conc=8), lambda store: store.crash(Nothing()), every=4)
    assert len(images) >= 4
    for image in images:
        assert missing(kind, image) == []


@pytest.mark.parametrize("nodes", [1, 2, 5])
def test_in_groups_of_other_sizes(nodes: int) -> None:
    kind = ("split", "file", "mem")
    for pipeline in ("parallel-append-early-ack", "async-storage"):
        for image in run_with_images(cell_of(kind, pipeline=pipeline, conc=8, nodes=nodes), lambda store: store.crash(Nothing()), every=5):
            assert missing(kind, image) == []


async def send_before_saving(peer: Peer) -> None:
    """What no pipeline may do: followers answer, and the leader counts itself, before the disk does."""
    while (rd := await peer.ready()) is not None:
        await peer.send(rd.messages)
        await peer.apply(rd.committed_entries)
        await peer.ack(rd.committed_entries)
        await peer.save(rd)
        await peer.advance(rd)


def test_a_pipeline_that_answers_too_early_would_be_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PIPELINES, "basic", send_before_saving)
    kind = ("split", "file", "mem")
    images = run_with_images(cell_of(kind, pipeline="basic", conc=8, nodes=5), lambda store: store.crash(Nothing()), every=4)
    assert any(missing(kind, image) for image in images)


@pytest.mark.parametrize("kind", DURABLE, ids="+".join)
@pytest.mark.parametrize("pipeline", ["parallel-append", "async-apply-early-ack", "async-storage"])
def test_a_group_that_lost_power_goes_on_with_all_that_it_acknowledged(pipeline: str, kind: tuple[str, str, str]) -> None:
    """Every disk keeps some of what it was not asked to sync, torn anywhere. The group resumes its epoch, verifies, and runs again."""
    rng = np.random.default_rng(11)
    cell = cell_of(kind, pipeline=pipeline, conc=8)
    images = run_with_images(cell, lambda store: store.crash(RandomChoice(rng)), every=9)
    for image in images[-2:]:
        assert resumed(cell, image.disks, image.acknowledged)


def resumed(cell: Cell, disks: Sequence[SimStore], acknowledged: Sequence[AcknowledgedRun]) -> bool:
    world = SimWorld(make_model(), "tcp", seed=6)
    for id, disk in enumerate(disks, 1):
        world.add_member(id, cell.nodes, cell, PLAN, store=disk)
    members = world.start(cell, PLAN)

    async def resume() -> bool:
        while members[0].epoch == Epoch():  # it reads its directory
            await members[0].ports.clock.sleep_ns(1_000_000)
        assert members[0].epoch == Epoch(1, 1)
        m = await run_cell(members[0], cell, PLAN, members[0].epoch, content=True, expected=acknowledged)
        assert m.ops >= 150
        assert [member.epoch for member in members] == [Epoch(1, 1)] * 3
        return bool(m.verified)

    return complete(world, resume())
