"""Configuration changes in the middle of a load take effect in their place, in every pipeline."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from rafttoy.cell import Plan
from rafttoy.pipeline import PIPELINES
from rafttoy.raft import ConfChange, ConfChangeType
from rafttoy.run import run_cell
from rafttoy.sim.world import SimWorld
from rafttoy.storage import LogStorage
from rafttoy.wire import Epoch
from tests.pipeline.group import MODEL, cell_of, complete


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_a_learner_is_added_and_removed_under_load(pipeline: str, monkeypatch: pytest.MonkeyPatch) -> None:
    applied: dict[int, list[tuple[str, int, int]]] = {}

    def owner(storage: Any) -> list[tuple[str, int, int]]:
        return applied.setdefault(next(m.id for m in members if m.ports is storage._ports), [])

    async def apply(self: LogStorage, batches: Any, original: Any = LogStorage.apply) -> None:
        owner(self).extend(("data", batch.first, batch.last) for batch in batches)
        await original(self, batches)

    async def set_conf_state(self: LogStorage, state: Any, index: int, original: Any = LogStorage.set_conf_state) -> None:
        owner(self).append(("conf", index, index))
        await original(self, state, index)

    monkeypatch.setattr(LogStorage, "apply", apply)
    monkeypatch.setattr(LogStorage, "set_conf_state", set_conf_state)
    cell = cell_of(("split", "file", "leveldb"), pipeline=pipeline)
    plan = Plan(seconds=0.06, warmup_seconds=0.0, verify=True)
    world = SimWorld(MODEL, "tcp", seed=1)
    members = world.start(cell, plan)
    changes: list[int] = []

    async def change() -> None:
        clock = members[0].ports.clock
        while members[0].peer is None or members[0].peer.client is None:  # the load has not begun
            await clock.sleep_ns(1_000_000)
        for type in (ConfChangeType.ADD_LEARNER_NODE, ConfChangeType.REMOVE_NODE):
            await clock.sleep_ns(15_000_000)
            peer = members[0].peer
            assert peer is not None
            changes.append(peer.node.propose_conf_change(ConfChange(type=type, node_id=9)).first)
            peer._signal.set()

    async def main() -> Any:
        return await run_cell(members[0], cell, plan, Epoch(1, 1), content=True)

    members[0].ports.tasks.spawn(change(), "changes")
    m = complete(world, main())
    assert m.verified
    assert len(changes) == 2
    for member in members:
        assert member.peer is not None
        assert member.peer.node.conf_state.voters == (1, 2, 3)
        assert member.peer.node.conf_state.learners == ()
        conf = [first for kind, first, _ in applied[member.id] if kind == "conf" and first]
        assert conf[-2:] == changes
        if "lazy" in pipeline and member.id != 1:
            data = [last - first + 1 for kind, first, last in applied[member.id] if kind == "data"]
            assert sum(data) <= len(changes) * cell.conc  # only what was committed in one Ready with a change, as the original does
            continue
        seen = [span for _, *span in applied[member.id] if span[0]]
        assert all(a[1] < b[0] for a, b in pairwise(seen))  # in the order of the log, each in its place
        last = max(changes)
        assert seen[-1][1] > last
