"""A pipeline is one object for both worlds, and a model run is the same wherever and whenever it is made."""

from __future__ import annotations

import asyncio
import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rafttoy import pipeline
from rafttoy.analysis.models import open_model
from rafttoy.cell import Plan
from rafttoy.peer import Peer
from rafttoy.pipeline import PIPELINES
from rafttoy.real.node import Event, Job, Lead, Measured, run_node
from rafttoy.real.runtime import RealTasks
from rafttoy.sim.runtime import SimTasks
from rafttoy.sim.world import SimWorld, run_sim
from rafttoy.wire import Epoch
from tests.pipeline.group import MODEL, cell_of

ROOT = Path(__file__).resolve().parents[2]


def test_a_pipeline_is_a_native_coroutine_of_this_package() -> None:
    for name, strategy in PIPELINES.items():
        assert inspect.iscoroutinefunction(strategy), name
        assert strategy.__module__.startswith(pipeline.__name__ + "."), name
        assert list(inspect.signature(strategy).parameters) == ["peer"], name
        assert strategy.__doc__, name


@pytest.mark.real
@pytest.mark.parametrize("name", PIPELINES)
def test_both_worlds_run_the_very_same_function(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs a pipeline takes it from the one table: what stands there runs in the model and on the real loop."""
    strategy = PIPELINES[name]
    ran: list[tuple[Any, type, type]] = []

    async def noted(peer: Peer) -> None:
        ran.append((strategy, type(peer.tasks), type(peer)))
        await strategy(peer)

    monkeypatch.setitem(PIPELINES, name, noted)
    cell = cell_of(("split", "mem", "mem"), pipeline=name, transport="mem", nodes=3)
    plan = Plan(proposals=200, warmup_seconds=0.0, verify=True)
    simulated = SimWorld(MODEL, "mem", seed=1).run(cell, plan, Epoch(1, 1), content=True)
    events: list[Event] = []
    job = Job(id=1, addresses=("",) * 3, data_dir=str(tmp_path), cell=cell, plan=plan, process_nanos=1, lead=(Lead(cell, plan, 1),))

    async def main() -> None:
        await run_node(job, events.append, asyncio.Event())

    asyncio.run(main())
    (real,) = [event.measurement for event in events if isinstance(event, Measured)]
    assert simulated.verified
    assert real.verified
    assert sorted(kind.__name__ for _, kind, _ in ran) == [RealTasks.__name__] * 3 + [SimTasks.__name__] * 3
    assert {function for function, _, _ in ran} == {strategy}
    assert {peer for _, _, peer in ran} == {Peer}


def simulate(salt: str, *arguments: str) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "rafttoy", "sim", "-o", "json", "--duration", "60ms", "--warmup", "20ms", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": salt, "PATH": ""})
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    for line in lines:
        del line["manifest"]  # says when and where
    return lines


def test_a_model_run_is_the_same_in_every_process() -> None:
    """Whatever the salt of hashes and the addresses of objects; with another seed it is another one."""
    cells = ("--pipeline", "parallel-append,async-storage", "--wal", "file", "--engine", "leveldb", "--conc", "16", "--seed", "4")
    first = simulate("0", *cells)
    assert len(first) == 2
    assert all(line["ops"] > 0 for line in first)
    for salt in ("1", "4711", "random"):
        assert json.dumps(simulate(salt, *cells)) == json.dumps(first)
    assert simulate("0", *cells[:-1], "5") != first


@pytest.mark.parametrize("name", PIPELINES)
def test_a_model_run_is_the_same_again_in_one_process(name: str) -> None:
    cell = cell_of(("split", "file", "leveldb"), pipeline=name, conc=0, rate=4000.0)
    plan = Plan(seconds=0.05, warmup_seconds=0.01)
    runs = [SimWorld(MODEL, "tcp", seed=seed).run(cell, plan, Epoch(1, 1)) for seed in (1, 1, 2)]
    assert runs[0] == runs[1]
    assert runs[0].ops > 0
    assert runs[0] != runs[2]


@pytest.mark.parametrize(
    ("pipeline", "transport", "conc", "nodes", "here"),
    [
        ("parallel-append", "tcp", 1, 3, True),
        ("async-storage", "tcp", 1, 3, False),  # its loop never waits
        ("parallel-append", "tcp", 100, 3, True),
        ("parallel-append", "tcp", 1000, 3, False),  # too much for it
        ("async-apply-early-ack", "tcp", 1, 3, True),
        ("async-apply-early-ack", "tcp", 100, 3, False),  # its applier would wait
        ("parallel-append", "grpc", 1, 3, True),
        ("parallel-append", "grpc", 100, 3, False),  # its links need the loop
        ("parallel-append", "mem", 1, 3, False),  # others have things to do on that loop
        ("parallel-append", "tcp", 1, 1, False),  # a loop that waits for nothing would never turn
    ],
)
def test_who_saves_by_itself(pipeline: str, transport: str, conc: int, nodes: int, here: bool) -> None:
    cell = cell_of(("split", "file", "mem"), pipeline=pipeline, transport=transport, conc=conc, nodes=nodes)
    for report in run_sim(cell, Plan(proposals=40 * conc), open_model("default")).reports.values():
        saved, by_itself = report.counters["wal_syncs"], report.counters["disk_here"]
        assert by_itself >= saved - 2 if here else by_itself <= 2, (saved, by_itself)  # the first ones are the election's
