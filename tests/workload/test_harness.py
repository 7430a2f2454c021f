"""What the instrument reaches by itself: in the model just what its stages cost, on a real loop more than any group."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from rafttoy.cell import Cell, Plan
from rafttoy.experiment import _instrument_bound
from rafttoy.harness import harness_ceiling
from rafttoy.real.cluster import run_local
from rafttoy.real.node import RealPorts
from rafttoy.run import Measurement
from rafttoy.sim.world import SimPorts, SimWorld
from tests.pipeline.group import MODEL, complete

FIXED_US, ENTRY_US = 15.0, 1.5
"""Of a round in MODEL: `propose`, `ack` and `client`, 5 µs each and 0.5 µs for each entry."""


def simulated(cell: Cell) -> float:
    world = SimWorld(MODEL, "tcp", 1)
    return complete(world, harness_ceiling(SimPorts(world, 1), cell, Plan(), content=False))


@pytest.mark.parametrize("conc", [3, 1000])
def test_a_closed_loop_costs_its_three_stages_and_nothing_else(conc: int) -> None:
    assert simulated(Cell(conc=conc)) == pytest.approx(conc / (FIXED_US + ENTRY_US * conc) * 1e6, rel=1e-3)


@pytest.mark.parametrize("arrival", ["poisson", "constant"])
@pytest.mark.parametrize("rate", [10.0, 1e6])
def test_of_an_open_loop_it_is_what_can_be_served_whatever_the_rate(rate: float, arrival: str) -> None:
    assert simulated(Cell(conc=0, rate=rate, arrival=arrival)) == pytest.approx(1e6 / ENTRY_US, rel=0.01)


def test_a_count_of_proposals_is_not_the_harnesses() -> None:
    world = SimWorld(MODEL, "tcp", 1)
    plan = Plan(proposals=3, warmup_seconds=0.0, verify=True)
    found = complete(world, harness_ceiling(SimPorts(world, 1), Cell(conc=40), plan, content=True))
    assert found == pytest.approx(40 / (FIXED_US + ENTRY_US * 40) * 1e6, rel=1e-3)
    assert world.env.now >= 200_000_000


@pytest.mark.parametrize("cell", [Cell(conc=1), Cell(conc=256), Cell(conc=0, rate=100.0), Cell(conc=4, bytes=1 << 20)], ids=Cell.load_name)
def test_others_get_their_turn_on_a_real_loop(cell: Cell, tmp_path: Path) -> None:
    """Links connect and ticks tick while it is measured."""
    turns = 0

    async def main() -> float:
        ports = RealPorts(1, tmp_path, None, Plan())  # type: ignore[arg-type]  # it sends nothing

        async def other() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0.001)
                turns += 1

        ports.tasks.spawn(other(), "other")
        try:
            return await harness_ceiling(ports, cell, Plan(), content=True)
        finally:
            ports.tasks.cancel_all()

    assert asyncio.run(main()) > 0
    assert turns > 5
    assert list(tmp_path.iterdir()) == []


@pytest.mark.real
def test_a_leader_measures_it_once_a_load(tmp_path: Path) -> None:
    plan = Plan(proposals=200, warmup_seconds=0.0)
    loads = [Cell(wal="mem", engine="mem", transport="tcp", conc=conc, bytes=64) for conc in (1, 64, 1)]
    measured: list[Measurement] = []

    run_local(
        [(cell, plan) for cell in loads],
        data_dir=tmp_path,
        on_measured=lambda i, measurement: measured.append(measurement),
        progress=lambda i, share: None,
        say=lambda line: None,
        harness=True,
    )
    one, many, again = [measurement.harness_ops_per_s for measurement in measured]
    assert one is not None
    assert many is not None
    assert again == one  # kept, not measured again: two measurements differ
    for measurement in measured:
        assert measurement.ops / measurement.seconds < (measurement.harness_ops_per_s or 0.0)
        assert measurement.reports[1].stages["propose"].entries < 1000  # none of the harness's


@pytest.mark.parametrize(
    ("rate", "harness", "told"), [(100.0, 201.0, False), (100.0, 200.0, True), (300.0, 200.0, True), (1.0, None, False)]
)
def test_a_result_within_twice_of_it_is_told_of(rate: float, harness: float | None, told: bool) -> None:
    warnings = _instrument_bound(rate, harness)
    assert bool(warnings) is told
    assert all(text.startswith("instrument-bound: ") for text in warnings)
