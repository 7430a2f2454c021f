"""A model run without content compacts its log as a real one does: into a snapshot, where the engine keeps nothing by itself."""

from __future__ import annotations

from rafttoy.cell import Cell, Plan
from rafttoy.peer import RaftOptions
from rafttoy.sim.world import SimWorld
from rafttoy.wire import Epoch
from tests.analysis.beds import make_model


def test_a_model_run_outlives_the_compaction_of_its_log() -> None:
    """100,000 proposals of 256 B in one second: the log is looked at ten times, and 8 MiB of it are kept."""
    cell = Cell(wal="file", engine="mem", transport="tcp", conc=1000)
    plan = Plan(proposals=100_000, verify=False)
    world = SimWorld(make_model(sync_us=5000, stage_us=1.0), cell.transport, plan.seed)
    for id in range(1, cell.nodes + 1):
        world.add_member(id, cell.nodes, cell, plan, options=RaftOptions(keep_log_bytes=1 << 17))
    measurement = world.run(cell, plan, Epoch(1, 1))
    leader = measurement.reports[1]
    assert measurement.ops >= 100_000
    assert leader.counters["log_bytes"] < 100_000 * 256  # what came first is compacted away
    assert leader.applied >= 100_000
