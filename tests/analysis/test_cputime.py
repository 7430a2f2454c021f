"""CPU time an operation: every nanosecond of a process stands in one of its parts, and in no other process."""

from __future__ import annotations

import pytest

from rafttoy.analysis.cputime import cpu_us_per_op
from rafttoy.cell import Cell, Plan
from rafttoy.control import PeerReport, StageTotals
from rafttoy.experiment import run_grid
from rafttoy.sim.model import Linear
from tests.analysis.beds import make_model


def report(id: int, loop_us: int, total_us: int, disk_us: int = 0, **stages_us: int) -> PeerReport:
    return PeerReport(
        id=id,
        commit=0,
        applied=0,
        log_digest="",
        engine_digest="",
        loop_ns=loop_us * 1000,
        total_ns=total_us * 1000,
        stages={name.replace("_", "."): StageTotals(1, 1, 1, us * 1000) for name, us in stages_us.items()},
        counters={"disk_cpu_ns": disk_us * 1000},
        metrics={},
    )


def test_parts_of_processes() -> None:
    reports = [report(1, 500, 900, 100, kv_leveldb=40, kv_leveldb_thread=50), report(3, 300, 400), report(2, 100, 150, 50)]
    assert cpu_us_per_op(reports, 100, one_process=False) == {
        "leader": 9.0,
        "leader/loop": 5.0,
        "leader/disk": 1.5,  # with the store's thread, but not with what the store did on the loop
        "leader/rest": 2.5,
        "follower-2": 1.5,
        "follower-2/loop": 1.0,
        "follower-2/disk": 0.5,
        "follower-2/rest": 0.0,
        "follower-3": 4.0,
        "follower-3/loop": 3.0,
        "follower-3/disk": 0.0,
        "follower-3/rest": 1.0,
        "total": 14.5,
    }


def test_peers_of_one_process_are_counted_once_and_their_disk_threads_each() -> None:
    reports = [report(id, 500, 900, 100) for id in (1, 2, 3)]
    assert cpu_us_per_op(reports, 100, one_process=True) == {
        "leader": 9.0,
        "leader/loop": 5.0,
        "leader/disk": 3.0,
        "leader/rest": 1.0,
        "total": 9.0,
    }


def test_a_clock_that_is_ahead_takes_nothing_from_the_rest() -> None:
    found = cpu_us_per_op([report(1, 500, 600, 130)], 10, one_process=False)
    assert (found["leader/disk"], found["leader/rest"]) == (10.0, 0.0)


def test_without_operations_there_is_nothing_to_tell() -> None:
    assert cpu_us_per_op([report(1, 5, 6)], 0, one_process=False) == {}


@pytest.mark.parametrize(("pipeline", "transport"), [("basic", "tcp"), ("async-storage", "tcp"), ("basic", "mem")])
def test_the_model_accounts_for_what_it_charges(pipeline: str, transport: str) -> None:
    """A stage costs 7 µs, a sync 30 µs of core time on the disk's thread or on the loop, a packet 11 µs beside the loop."""
    model = make_model(stage_us=7.0, disk={"cpu_us": 30.0}, link={"background": Linear(fixed_us=11.0)})
    cell = Cell(pipeline=pipeline, wal="file", engine="mem", transport=transport, conc=1)
    plan = Plan(proposals=200, warmup_seconds=0.5)
    (row,) = run_grid("sim", [cell], plan, model=model)
    spent = row.cpu_us_per_op
    names = ["leader"] if transport == "mem" else ["leader", "follower-2", "follower-3"]
    parts = ("/loop", "/disk", "/rest")
    assert list(spent) == [name + part for name in names for part in ("", *parts)] + ["total"]
    assert spent["total"] == pytest.approx(sum(spent[name] for name in names), abs=1e-3)
    for name in names:
        assert spent[name] == pytest.approx(sum(spent[name + part] for part in parts), abs=1e-3)
        assert all(spent[name + part] >= 0 for part in parts)
    for stage in row.stages.values():
        assert set(stage) == {"count", "entries", "bytes", "cpu_us", "cpu_us_per_op"}
        assert stage["cpu_us_per_op"] == pytest.approx(stage["cpu_us"] / row.ops, abs=1e-3)
    if transport == "tcp":
        own = [stage for name, stage in row.stages.items() if "/" not in name]
        here = row.counters["disk_here"]
        assert (here > 0) == (pipeline == "basic")
        staged = sum(stage["cpu_us_per_op"] for stage in own)  # links cost the loop nothing
        assert spent["leader/loop"] == pytest.approx(staged + 30.0 * here / row.ops, rel=0.02)
        assert spent["leader/disk"] == pytest.approx(30.0 * (row.counters["wal_syncs"] - here) / row.ops, rel=0.02)
        packets = row.counters["packets_sent"] + row.counters["packets_received"]
        assert spent["leader/rest"] == pytest.approx(11.0 * packets / row.ops, rel=0.02)
