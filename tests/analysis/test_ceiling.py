"""The closed form: worked out by hand on models of round figures, and beside the simulation of the same cells."""

from __future__ import annotations

import itertools

import msgspec
import pytest

from rafttoy.analysis.ceiling import SHAPES, Ceiling, ceiling, without_storage
from rafttoy.cell import Cell, Plan
from rafttoy.errors import ConfigError
from rafttoy.pipeline import PIPELINES
from rafttoy.sim.model import Linear, Model
from rafttoy.worlds import run_sim
from tests.analysis.beds import make_model

FILE = Cell(wal="file", engine="mem", transport="tcp", conc=1, bytes=223)
"""A proposal of 256 bytes with its encoding."""
FRAME = 269 + 1
MEM = msgspec.structs.replace(FILE, wal="mem")


def with_(cell: Cell, **changes: object) -> Cell:
    return msgspec.structs.replace(cell, **changes)


# --- by hand ---


def test_every_pipeline_has_its_shape() -> None:
    assert list(SHAPES) == list(PIPELINES)


def test_one_client_waits_for_two_syncs_or_for_the_slower_path() -> None:
    model = make_model(sync_us=100, delay_us=50)
    basic = ceiling(model, with_(FILE, pipeline="basic"))  # 100 here, 50 there, 100 there, 50 back
    parallel = ceiling(model, with_(FILE, pipeline="parallel-append"))  # 100 here beside 50 + 100 + 50
    assert (basic.latency_us, basic.ops_per_s, basic.binding) == (300.0, 3333.3, "latency")
    assert (parallel.latency_us, parallel.ops_per_s) == (200.0, 5000.0)
    assert ceiling(model, with_(FILE, pipeline="basic", nodes=1)).latency_us == 100.0


def test_of_two_followers_the_faster_one_counts() -> None:
    """Syncs are uniform between 60 and 120 µs: 90 on average, the faster of two 80."""
    model = make_model(sync_us=[60, 120], delay_us=0)
    assert ceiling(model, with_(FILE, pipeline="basic")).latency_us == 90 + 80
    assert ceiling(model, with_(FILE, pipeline="basic", nodes=5)).latency_us == 90 + 84  # the second of four: 60 + 60 · 2/5


def test_fixed_costs_are_shared_by_a_batch() -> None:
    """10 µs each. Leader: propose, ready twice, send, receive, ack, client, engine.apply, advance twice. Follower: receive, ready,
    send, engine.apply, advance. A round meets, one after another: propose, ready; receive, ready; receive, ready,
    engine.apply, ack, client, advance (what `send` costs a loop is past when the packet has left)."""
    found = ceiling(make_model(delay_us=0, stage_us=10), with_(MEM, pipeline="basic", conc=4096))
    assert found.bounds["leader"] == pytest.approx(4096 / 100e-6, rel=1e-6)
    assert found.bounds["follower"] == pytest.approx(4096 / 50e-6, rel=1e-6)
    assert (found.latency_us, found.batch, found.binding) == (100.0, 4096.0, "leader")


def test_costs_of_entries_and_bytes_bind_however_large_the_batch() -> None:
    model = make_model(delay_us=0, stages={"propose": Linear(entry_us=2.0, byte_ns=8.0)})
    found = ceiling(model, with_(MEM, pipeline="basic", conc=1024))
    assert found.ops_per_s == pytest.approx(1 / (2e-6 + 256 * 8e-9))


def test_peers_of_one_host_share_its_cores() -> None:
    """Each peer applies at 3 µs an entry: three of them on two cores make 4.5, and each on its own host 3."""
    costs = {"delay_us": 0.0, "stages": {"engine.apply": Linear(entry_us=3.0)}, "cores": 2}
    cell = with_(MEM, pipeline="async-storage", conc=4096)
    together, apart = ceiling(make_model(hosts="one", **costs), cell), ceiling(make_model(hosts="each", **costs), cell)
    assert (together.binding, together.utilisation["cores"]) == ("cores", 1.0)
    assert together.ops_per_s == pytest.approx(1 / 4.5e-6, rel=1e-4)
    assert apart.ops_per_s == pytest.approx(1 / 3e-6, rel=1e-4)


@pytest.mark.parametrize(("cores", "of_one_core"), [(1, 9.0), (2, 6.0), (3, 3.0)])
def test_followers_whose_loops_keep_to_a_core_share_it(cores: int, of_one_core: float) -> None:
    """3 µs an entry on each of three peers. With two cores the leader has one, and waits for what both followers do on the other."""
    model = make_model(delay_us=0.0, stages={"engine.apply": Linear(entry_us=3.0)}, cores=cores, hosts="one")
    model = msgspec.structs.replace(model, software=msgspec.structs.replace(model.software, placed=True))
    found = ceiling(model, with_(MEM, conc=100_000))
    assert found.bounds["cores"] == pytest.approx(1e6 / of_one_core, rel=1e-3)


def test_peers_of_one_process_share_its_loop() -> None:
    model = make_model(delay_us=0, stage_us=10)
    found = ceiling(model, with_(MEM, pipeline="async-storage", transport="mem", conc=4096))
    assert found.bounds["leader"] == pytest.approx(4096 / (80e-6 + 2 * 40e-6), rel=1e-4)


def test_disk_bandwidth_binds_large_proposals() -> None:
    """Two nanoseconds a byte beyond the first 4 KiB of a write, three peers on one device."""
    model = make_model(sync_us=50, delay_us=0, hosts="one", disk={"byte_ns": 2.0})
    found = ceiling(model, with_(FILE, pipeline="async-storage", conc=4096, bytes=65_536 - 33))
    frame = 65_536 + 3 + 1 + 1 + 4 + 2 + 3 + 1 + 3  # data with its tag and length; type, term, index; the frame's tag and length
    assert found.binding == "disk"
    assert found.ops_per_s == pytest.approx(1 / (3 * frame * 2e-9), rel=0.01)


def test_network_binds_what_leaves_twice() -> None:
    model = make_model(sync_us=0, delay_us=0, link={"byte_ns": 8.0})  # 1 Gbit/s
    found = ceiling(model, with_(MEM, pipeline="async-storage", conc=4096))
    assert found.binding == "network"
    assert found.ops_per_s == pytest.approx(1e9 / (8.0 * 2 * FRAME), rel=0.01)


def test_a_log_in_memory_takes_the_delay_of_its_name() -> None:
    assert ceiling(make_model(delay_us=0), with_(FILE, pipeline="basic", wal="mem:5ms")).latency_us == 10_000.0


def test_open_loop_below_and_beyond_what_can_be_served() -> None:
    model = make_model(sync_us=100, delay_us=50, stages={"propose": Linear(entry_us=10.0)})
    cell = with_(FILE, pipeline="parallel-append", conc=0, rate=1000.0)
    below, beyond = ceiling(model, cell), ceiling(model, with_(cell, rate=1e6))
    assert (below.ops_per_s, below.binding, below.batch) == (1000.0, "rate", 1.0)
    assert below.latency_us is not None
    assert 210.0 < below.latency_us < 225.0  # the round of a lone proposal, and some wait for the loop
    assert (beyond.latency_us, beyond.binding) == (None, "loop")
    assert beyond.ops_per_s == pytest.approx(100_000, rel=0.01)


def test_latency_of_an_open_loop_grows_with_its_rate() -> None:
    model = make_model(sync_us=100, delay_us=50, stages={"propose": Linear(fixed_us=20.0, entry_us=5.0)})
    cell = with_(FILE, pipeline="parallel-append", conc=0)
    found = [ceiling(model, with_(cell, rate=rate)) for rate in (100.0, 3_000.0, 30_000.0, 100_000.0, 150_000.0)]
    assert [one.latency_us for one in found] == sorted(one.latency_us or 0 for one in found)
    assert [one.batch for one in found] == sorted(one.batch for one in found)


def test_the_published_model_leaves_out_the_disk() -> None:
    model = make_model(sync_us=5000, delay_us=100, stages={"receive": Linear(fixed_us=25), "send": Linear(fixed_us=2.0)})
    found = without_storage(model, FILE)
    assert found.rounds_per_s == pytest.approx(1 / (3 * 25e-6 + 2 * 1e-6))
    assert found.latency_us == pytest.approx(1 + 200 + 25)


def test_what_the_model_has_no_costs_of_is_told() -> None:
    with pytest.raises(ConfigError, match=r"model bed: no section hardware\.links\.carrier-pigeon"):
        ceiling(make_model(), with_(FILE, transport="carrier-pigeon"))


# --- beside the simulation ---

HOST = make_model(
    sync_us=[90.0, 110.0, 150.0, 400.0],
    sync_percent=[0.0, 50.0, 95.0, 100.0],
    delay_us=60,
    cores=2,
    hosts="one",
    stage_us=10,
    stages={"propose": Linear(fixed_us=20, entry_us=0.3), "client": Linear(fixed_us=5, entry_us=0.2)},
    kv=Linear(fixed_us=20, byte_ns=10.0),
    disk={"byte_ns": 0.5, "handoff_us": 30.0, "concurrency": [1.0, 1.3, 1.5], "cpu_us": 30.0},
    link={"background": Linear(fixed_us=20.0, byte_ns=1.0)},
)
"""Like a small virtual machine."""

GRID = [
    Cell(pipeline=pipeline, wal=wal, engine=engine, transport="tcp", conc=conc)
    for pipeline, (wal, engine), conc in itertools.product(
        ("basic", "parallel-append", "async-apply-early-ack", "async-storage"), (("mem", "mem"), ("file", "leveldb")), (1, 64, 2048)
    )
]


def simulated(model: Model, cell: Cell) -> float:
    measurement = run_sim(cell, Plan(proposals=80 * max(1, cell.conc), warmup_seconds=1.0), model)
    return measurement.ops / measurement.seconds


@pytest.fixture(scope="module")
def both() -> list[tuple[Cell, float, Ceiling]]:
    return [(cell, simulated(HOST, cell), ceiling(HOST, cell)) for cell in GRID]


def test_the_simulation_comes_near_the_ceiling_and_stays_below(both: list[tuple[Cell, float, Ceiling]]) -> None:
    for cell, ops_per_s, bound in both:
        assert 0.6 < ops_per_s / bound.ops_per_s < 1.04, (str(cell), ops_per_s, bound)


def test_both_put_loads_and_pipelines_in_the_same_order(both: list[tuple[Cell, float, Ceiling]]) -> None:
    """Wherever the ceilings of two cells differ by more than a tenth, so do the simulations, the same way."""
    for (cell, ops, bound), (other, other_ops, other_bound) in itertools.combinations(both, 2):
        if bound.ops_per_s > 1.4 * other_bound.ops_per_s:
            assert ops > other_ops, (str(cell), str(other))
        elif other_bound.ops_per_s > 1.4 * bound.ops_per_s:
            assert other_ops > ops, (str(cell), str(other))
        elif cell.conc == other.conc == 1 and bound.ops_per_s > 1.1 * other_bound.ops_per_s:
            assert ops > other_ops, (str(cell), str(other))


@pytest.mark.parametrize(
    ("cell", "cheaper"),
    [
        (Cell(wal="file", transport="tcp", conc=1), {"sync_us": 50.0}),
        (Cell(wal="file", transport="tcp", conc=1), {"delay_us": 10.0}),
        (Cell(wal="file", transport="tcp", conc=2048), {"cores": 4}),
        (Cell(wal="file", transport="tcp", conc=2048), {"kv": Linear()}),
    ],
)
def test_both_answer_a_cheaper_cost_alike(cell: Cell, cheaper: dict[str, object]) -> None:
    settings: dict[str, object] = {
        "sync_us": 100.0,
        "delay_us": 60.0,
        "cores": 2,
        "hosts": "one",
        "stage_us": 10.0,
        "kv": Linear(byte_ns=10.0),
    }
    before, after = make_model(**settings), make_model(**settings | cheaper)
    gain = ceiling(after, cell).ops_per_s / ceiling(before, cell).ops_per_s
    assert gain > 1.05
    assert simulated(after, cell) / simulated(before, cell) == pytest.approx(gain, rel=0.15)
