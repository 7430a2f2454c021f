"""A model is fitted from runs: what made them is found again."""

from __future__ import annotations

import sys

import msgspec
import numpy as np
import pytest

from rafttoy.analysis import calibrate
from rafttoy.analysis.calibrate import _lock_us, fit, training_cells
from rafttoy.analysis.costs import fit_rows, fit_store
from rafttoy.analysis.fits import beside_ns, cuts_flush, flushed, loop_beside_stages, typical
from rafttoy.analysis.pool import side_by_side
from rafttoy.analysis.waits import save_us, with_delays, with_pace, with_saves
from rafttoy.cell import Cell, Plan
from rafttoy.control import PeerReport, StageTotals
from rafttoy.ports import KV_BUFFER_BYTES, KV_PAIR_BYTES
from rafttoy.run import Measurement
from rafttoy.sim.model import Costs, Disk, Interruptions, Kv, Linear, LinkWork, Model
from rafttoy.worlds import run_sim
from tests.analysis.beds import make_model

TRUE = make_model(
    sync_us=300.0,
    delay_us=40.0,
    stage_us=8.0,
    cores=4,
    hosts="one",
    disk={"byte_ns": 1.5, "grow_us": 120.0, "handoff_us": 20.0},
    kv=Linear(fixed_us=4.0, entry_us=0.5),
    background=Linear(entry_us=0.23, byte_ns=1.0),
    flush_bytes=KV_BUFFER_BYTES,
    link={"send": Linear(fixed_us=6.0), "wake_us": 9.0},
)
TRUE = msgspec.structs.replace(TRUE, software=msgspec.structs.replace(TRUE.software, placed=True, reads_in_turn=True))
CELLS = [
    Cell("parallel-append", wal, engine, storage, "tcp", conc, bytes=size)
    for storage, wal, engine in (
        ("split", "file", "leveldb"),
        ("split", "etcd", "mem"),
        ("leveldb", "leveldb", "leveldb"),
        ("split", "mem", "mem"),
    )
    for conc, size in ((2, 256), (24, 256), (200, 256), (2500, 256), (200, 4096))
]


def sampled(report: PeerReport) -> PeerReport:
    """With samples, as a real peer takes them: of each stage its mean, a few times."""
    stages = {
        name: msgspec.structs.replace(
            stage, samples=[stage.entries // stage.count, stage.nbytes // stage.count, stage.cpu_ns // stage.count] * 10
        )
        for name, stage in report.stages.items()
        if stage.count
    }
    return msgspec.structs.replace(report, stages=stages)


def run(cell: Cell, model: Model, rounds: int = 120) -> Measurement:
    return run_sim(cell, Plan(proposals=rounds * cell.conc), model)


@pytest.fixture(scope="module")
def training() -> list[tuple[Cell, Measurement]]:
    """Runs of a host that is exactly the model."""
    measured = [(cell, run_sim(cell, Plan(seconds=0.7, warmup_seconds=0.5), TRUE)) for cell in CELLS]
    for _, m in measured:
        m.reports = {id: sampled(report) for id, report in m.reports.items()}
    return measured


def with_disk(model: Model, disk: Disk, kv: dict[str, Kv] | None = None) -> Model:
    hardware = msgspec.structs.replace(model.hardware, disk=disk)
    software = msgspec.structs.replace(model.software, kv=kv or model.software.kv)
    return msgspec.structs.replace(model, hardware=hardware, software=software)


def test_a_disk_is_found_by_how_long_saves_take(training: list[tuple[Cell, Measurement]]) -> None:
    """However wrong the probe was: a third of the sync, no bytes, no growth. Each group has its own curve."""
    on_disk = [(cell, m) for cell, m in training if cell.wal != "mem"]
    probed = with_disk(TRUE, msgspec.structs.replace(TRUE.hardware.disk, sync_us=[100.0, 100.0], byte_ns=0.0, grow_us=0.0))
    found = with_saves(probed, on_disk)
    for cell, measured in on_disk:
        if cell.conc > 200 or cell.bytes > 256:  # two sizes so near each other are one point of the curve
            continue
        again = run(cell, found)
        assert save_us(again) == pytest.approx(save_us(measured), rel=0.1), cell
    for name in ("file+leveldb", "etcd+mem", "leveldb"):
        disk = found.software.groups[f"{name} tcp"].disk
        assert disk is not None
        assert len(disk.at) >= 4
        assert disk.times[0] == pytest.approx(3.0, rel=0.5)
        assert disk.times[-1] > disk.times[0]  # bytes, of which the probe said nothing
    assert "mem+mem tcp" not in found.software.groups


def test_a_disk_whose_tail_is_heavier_under_load_is_found_by_its_slowest_saves() -> None:
    """The probe saw quantiles from 100 to 400 µs, and one stall; under load they reach from 25 to 1,600."""
    quantiles, percent = [100.0, 150.0, 200.0, 250.0, 400.0, 5000.0], [0.0, 25.0, 50.0, 75.0, 99.9, 100.0]
    disk = msgspec.structs.replace(TRUE.hardware.disk, sync_us=quantiles, sync_percent=percent)
    loaded = with_disk(TRUE, msgspec.structs.replace(disk, at=(1.0,), times=(1.0,), spreads=(3.0,)))
    cells = [cell for cell in CELLS if cell.storage_name() == "file+leveldb" and cell.bytes == 256]
    measured = [(cell, run(cell, loaded, 480)) for cell in cells]  # the slowest save in a hundred of 120 is a matter of luck
    found = with_saves(with_disk(TRUE, disk), measured).software.groups["file+leveldb tcp"].disk
    assert found is not None
    assert found.spreads == pytest.approx([3.0] * len(found.at), rel=0.35)


def test_a_host_that_is_faster_and_slower_is_found_by_its_slowest_proposals() -> None:
    hurried = msgspec.structs.replace(TRUE, hardware=msgspec.structs.replace(TRUE.hardware, pace=0.2))
    cells = [cell for cell in CELLS if cell.storage_name() == "mem+mem" and cell.bytes == 256]
    found = with_pace(TRUE, [(cell, run_sim(cell, Plan(seconds=0.4, warmup_seconds=0.05), hurried)) for cell in cells])
    assert found.hardware.pace == pytest.approx(0.2, rel=0.2)


def test_a_probe_that_met_more_stops_than_the_group_did_is_told_by_those_who_wait_for_a_disk() -> None:
    def stopped(per_s: float) -> Model:
        stops = Interruptions(per_s=per_s, us=[200.0, 1500.0])
        return msgspec.structs.replace(TRUE, hardware=msgspec.structs.replace(TRUE.hardware, pace=0.1, interruptions=stops))

    stores = ("mem+mem", "etcd+mem")
    cells = [cell for cell in CELLS if cell.storage_name() in stores and cell.bytes == 256 and cell.conc <= 24]
    measured = [(cell, run_sim(cell, Plan(seconds=0.4, warmup_seconds=0.05), stopped(40.0))) for cell in cells]
    many, few = (with_pace(stopped(per_s), measured).hardware.interruptions for per_s in (400.0, 40.0))
    assert many is not None
    assert few is not None
    assert many.per_s < 200
    assert 20 < few.per_s <= 40


def test_a_link_has_the_delay_of_its_quickest_group() -> None:
    """And what others add is theirs, however the first guess was divided."""
    slower = msgspec.structs.replace(LinkWork(), late_us=80.0)
    groups = {"mem+mem tcp": Costs(links={"tcp": slower}), "file+leveldb tcp": Costs(links={"tcp": LinkWork()})}
    software = msgspec.structs.replace(TRUE.software, groups=groups)
    link = msgspec.structs.replace(TRUE.hardware.links["tcp"], delay_us=40.0)
    hardware = msgspec.structs.replace(TRUE.hardware, links={"tcp": link})
    true = msgspec.structs.replace(TRUE, hardware=hardware, software=software)
    cells = [cell for cell in CELLS if cell.group_name() in groups and cell.conc in (2, 24)]
    measured = [(cell, run(cell, true)) for cell in cells]
    none = {name: msgspec.structs.replace(costs, links={"tcp": LinkWork()}) for name, costs in groups.items()}
    guess = msgspec.structs.replace(
        true,
        hardware=msgspec.structs.replace(hardware, links={"tcp": msgspec.structs.replace(link, delay_us=100.0)}),
        software=msgspec.structs.replace(software, groups=none),
    )
    found = with_delays(guess, measured)
    assert found.hardware.links["tcp"].delay_us == pytest.approx(40.0, abs=10.0)
    late = {name: costs.links["tcp"].late_us for name, costs in found.software.groups.items()}
    assert late == pytest.approx({"mem+mem tcp": 80.0, "file+leveldb tcp": 0.0}, abs=10.0)


def test_a_stage_that_is_a_line_stays_one() -> None:
    rng = np.random.default_rng(1)
    samples = [(n, 256 * n, int((10_000 + 300 * n + 0.2 * 256 * n) * rng.normal(1, 0.02))) for n in (1, 16, 128, 1024) for _ in range(40)]
    cost = fit_rows([np.array(samples, dtype=float)])
    for n in (1, 16, 128, 1024):
        assert cost.exact_ns(n, 256 * n) == pytest.approx(10_000 + 300 * n + 0.2 * 256 * n, rel=0.05)


def test_a_stage_that_handles_few_one_by_one_and_many_as_an_array_is_bent() -> None:
    true_ns = {1: 9_000, 24: 36_000, 200: 46_000, 2500: 151_000}  # engine.apply of a dict, as measured
    samples = [(n, 256 * n, ns) for n, ns in true_ns.items() for _ in range(40)]
    cost = fit_rows([np.array(samples, dtype=float)])
    for n, ns in true_ns.items():
        assert cost.exact_ns(n, 256 * n) == pytest.approx(ns, rel=0.02)


# --- stores ---


def filled(n: int, batches: int, *, held: int = 0, buffers: int = 0) -> PeerReport:
    """Of a peer that put batches of `n` pairs into LevelDB, which cost 20 µs and 1.5 µs a pair, and more the more it held (`GROWTH`)."""
    most = KV_BUFFER_BYTES / (256 + KV_PAIR_BYTES)
    rng = np.random.default_rng(n)
    rows = []
    for i in range(batches):
        pairs = (held + n * i) % most
        rows.append((n, 256 * n, int(1000 * (20 + 1.5 * n) * float(np.interp(pairs, *GROWTH)) * rng.normal(1, 0.05))))
    stage = StageTotals(batches, n * batches, 256 * n * batches, sum(ns for _, _, ns in rows), [value for row in rows for value in row])
    return PeerReport(1, 0, 0, "", "", 0, 0, {"kv.leveldb": stage}, {"kv_buffers": buffers}, {}, buffered_pairs=held)


GROWTH = ([0.0, 100_000.0], [1.0, 2.0])


def test_what_a_put_costs_is_told_from_what_the_buffer_holds() -> None:
    """Runs of few proposals see an almost empty buffer, those of many a full one: of each batch size the growth within the run counts."""
    store = fit_store("leveldb", [filled(2, 2000), filled(200, 400, held=5_000), filled(800, 120, held=15_000), filled(2500, 40)])
    for n in (2, 200, 800, 2500):
        for held in (10_000, 30_000, 90_000):
            expected = 1000 * (20 + 1.5 * n) * float(np.interp(held, *GROWTH))
            assert store.write_ns(n, 256 * n, held) == pytest.approx(expected, rel=0.12), (n, held)
    assert store.write_ns(200, 256 * 200, 100_000) > 1.6 * store.write_ns(200, 256 * 200, 1000)


def test_a_store_whose_puts_do_not_grow_dearer_has_no_such_growth() -> None:
    rng = np.random.default_rng(1)
    rows = [(200, 51_200, int(320_000 * rng.normal(1, 0.05))) for _ in range(800)]
    stage = StageTotals(800, 160_000, 51_200 * 800, 1, [value for row in rows for value in row])
    report = PeerReport(1, 0, 0, "", "", 0, 0, {"kv.leveldb": stage}, {}, {})
    assert max(fit_store("leveldb", [report]).pairs_times) < 1.05


@pytest.mark.parametrize(
    ("held", "batches", "buffers", "before", "cut"),
    [
        (0, 50, 0, 0, False),
        (1_000, 50, 0, 1, True),  # it was full shortly before the window
        (50_000, 50, 0, 1, False),
        (100_000, 500, 1, 0, False),  # and 87,000 pairs since: that flush is over
        (113_000, 10, 1, 0, True),  # just begun
    ],
)
def test_a_run_whose_window_may_cut_a_flush_is_told(held: int, batches: int, buffers: int, before: int, cut: bool) -> None:
    report = msgspec.structs.replace(filled(200, batches, held=held, buffers=buffers), filled_buffers=before)
    assert cuts_flush("leveldb", report) is cut


def test_whole_buffers_are_flushed_or_all_as_it_comes() -> None:
    report = filled(200, 500, held=100_000, buffers=1)
    pairs, nbytes = flushed("leveldb", Kv(write=Linear(), flush_bytes=KV_BUFFER_BYTES), report)
    assert pairs == pytest.approx(KV_BUFFER_BYTES / (256 + KV_PAIR_BYTES))
    assert nbytes == pytest.approx(256 * pairs)
    assert flushed("leveldb", Kv(write=Linear()), report) == (100_000, 25_600_000)


@pytest.mark.parametrize(("enabled", "lock_us"), [(True, sys.getswitchinterval() * 1e6), (False, 0.0)])
def test_a_model_of_an_interpreter_has_its_lock(monkeypatch: pytest.MonkeyPatch, enabled: bool, lock_us: float) -> None:
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: enabled, raising=False)
    assert _lock_us() == pytest.approx(lock_us)


def test_what_the_runs_cost_is_found_again(training: list[tuple[Cell, Measurement]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Throughput is not compared: which of two ways a closed loop of thousands falls into hangs on a fraction of a microsecond."""
    monkeypatch.setattr(calibrate, "cores", lambda _: TRUE.hardware.cores)
    with side_by_side(2) as simulate:
        model = fit(training, TRUE.hardware.disk, simulate=simulate)
    link = model.hardware.links["tcp"]
    assert link.delay_us == pytest.approx(40, abs=5)
    assert link.send.fixed_us == pytest.approx(6, rel=0.1)
    for cell, measured in training:
        for report in measured.reports.values() if cell.conc <= 24 else ():  # of more, many packets find their loop awake
            own = model.on(cell.group_name()).hardware
            assert beside_ns(own.links["tcp"], own.disk, report) == pytest.approx(loop_beside_stages(report), rel=0.08), cell
    assert set(model.software.groups) == {"file+leveldb tcp", "etcd+mem tcp", "leveldb tcp", "mem+mem tcp"}
    for costs in (model.software, *model.software.groups.values()):
        for name, cost in costs.stages.items():
            assert cost.exact_ns(24, 24 * 290) == pytest.approx(8_000, rel=0.02), name
        for kind, store in costs.kv.items():
            assert store.write.exact_ns(24, 24 * 290) == pytest.approx(16_000, rel=0.02), kind
            assert store.stall_byte_ns < 1.0
            assert store.flush_bytes == (0 if kind == "dict" else KV_BUFFER_BYTES)
            for nbytes in (270, 4110):
                expected = 230 + nbytes
                assert store.background.exact_ns(1, nbytes) == (0 if kind == "dict" else pytest.approx(expected, rel=0.1)), kind
    assert link.background.exact_ns(1, 1000) < 1  # what other threads spent is the stores' alone


def test_of_several_runs_of_a_cell_the_typical_one_counts(training: list[tuple[Cell, Measurement]]) -> None:
    (cell, usual), (other, alone) = training[:2]
    disturbed, lucky = (msgspec.structs.replace(usual, seconds=usual.seconds * factor) for factor in (5, 0.9))
    assert typical([(cell, disturbed), (other, alone), (cell, lucky), (cell, usual)]) == [(cell, usual), (other, alone)]


def test_training_cells_are_near_those_to_predict_and_none_of_them() -> None:
    asked = [Cell("basic", "file", "leveldb", "split", "tcp", conc, bytes=size) for conc in (1, 24, 200) for size in (64, 256, 4096)]
    asked += [Cell("parallel-append", "file", "leveldb", "split", "tcp", 24)] * 2
    (group,) = training_cells(asked)
    assert {cell.bytes for cell in group} == {64, 256, 4096}
    assert [cell.conc for cell in group if cell.bytes == 256] == [2, 2, 25, 200, 800, 2500]  # 24 is to be predicted
    assert [cell.pipeline for cell in group[:3]] == ["parallel-append", "async-storage", "parallel-append"]
    assert not set(group) & set(asked)
