"""Errors of fits, and the intervals that are made of them."""

from __future__ import annotations

import math

import msgspec
import pytest

from rafttoy.analysis.fits import Fit, fits_of, with_calibrated
from rafttoy.analysis.interval import prediction_interval
from rafttoy.cell import Cell, Plan
from rafttoy.experiment import run_grid
from rafttoy.run import Measurement
from rafttoy.sim.model import Calibrated, Linear, Model
from rafttoy.worlds import run_sim
from tests.analysis.beds import make_model

MODEL = make_model(sync_us=200.0, delay_us=50.0, stage_us=8.0, kv=Linear(fixed_us=5.0, entry_us=0.2), link={"send": Linear(fixed_us=6.0)})
CELLS = [
    Cell(wal="file", engine="leveldb", transport="tcp", conc=2),
    Cell(wal="file", engine="leveldb", transport="tcp", conc=50, bytes=1000),
]


@pytest.fixture(scope="module")
def training() -> list[tuple[Cell, Measurement]]:
    """Runs of a host whose costs are exactly the model's: the model itself."""
    return [(cell, run_sim(cell, Plan(proposals=100 * cell.conc), MODEL)) for cell in CELLS]


def errors(fits: list[Fit]) -> dict[str, float]:
    return {fit.name: fit.error_pct for fit in fits}


def changed(model: Model, **costs: Linear) -> Model:
    software = msgspec.structs.replace(model.software, stages=model.software.stages | costs)
    return msgspec.structs.replace(model, software=software)


def test_the_model_that_made_the_runs_fits_them(training: list[tuple[Cell, Measurement]]) -> None:
    fits = fits_of(MODEL, training)
    assert {fit.part for fit in fits} == {"stages", "kv", "links", "disk"}
    assert {"propose", "ready", "kv.leveldb", "tcp", "save"} <= set(errors(fits))
    assert max(errors(fits).values()) < 0.5
    shares = [fit.share_pct for fit in fits if fit.part != "disk"]
    assert sum(shares) == pytest.approx(100, abs=2)


def test_a_cost_that_is_wrong_shows_by_how_much(training: list[tuple[Cell, Measurement]]) -> None:
    found = errors(fits_of(changed(MODEL, propose=Linear(fixed_us=10.0)), training))
    assert found["propose"] == pytest.approx(25.0, abs=0.1)
    assert found["ready"] < 0.1
    slow = msgspec.structs.replace(
        MODEL, hardware=msgspec.structs.replace(MODEL.hardware, disk=msgspec.structs.replace(MODEL.hardware.disk, sync_us=[300.0, 300.0]))
    )
    assert errors(fits_of(slow, training))["save"] == pytest.approx(46, abs=6)  # 100 of some 210 µs


def test_what_the_model_was_made_from_stands_in_it(training: list[tuple[Cell, Measurement]]) -> None:
    fits = [
        Fit("stages", "propose", 30.0, 6, share_pct=30.0),
        Fit("stages", "ready", 40.0, 6, share_pct=10.0),
        Fit("links", "tcp", 12.0, 6, share_pct=40.0),
        Fit("disk", "save", 7.0, 2),
    ]
    calibrated = with_calibrated(MODEL, training, fits).calibrated
    assert calibrated is not None
    assert (calibrated.conc, calibrated.bytes, calibrated.nodes) == ((2, 50), (256, 1000), (3, 3))
    assert (calibrated.transports, calibrated.storages) == (["tcp"], ["file+leveldb"])
    assert calibrated.error_pct == {
        "stages": pytest.approx(math.hypot(0.75 * 30, 0.25 * 40), abs=0.05),  # independent errors of parts of a sum
        "links": 12.0,
        "disk": 7.0,
    }


# --- intervals ---


def interval(error_pct: dict[str, float], **costs: object) -> tuple[float, float, float]:
    """(low, prediction, high) of one client's throughput."""
    model = msgspec.structs.replace(
        make_model(**costs),  # type: ignore[arg-type]
        calibrated=Calibrated(conc=(1, 1), bytes=(256, 256), error_pct=error_pct),  # type: ignore[arg-type]
    )
    cell = Cell(pipeline="basic", wal="file", engine="mem", transport="tcp", conc=1)
    (result,) = run_grid("sim", [cell], Plan(proposals=50), model=model)
    found = prediction_interval(result, Plan(), model)
    assert found is not None
    low, high = found["ops_per_s"]
    return low, result.ops_per_s, high


def test_where_one_cost_is_all_its_error_is_the_interval() -> None:
    low, middle, high = interval({"disk": 10.0}, sync_us=1000.0, delay_us=0.0)
    assert middle == pytest.approx(500, rel=0.01)
    assert high / middle == pytest.approx(1 + 1.645 * (1 - 1 / 1.1), abs=0.005)
    assert middle / low == pytest.approx(high / middle, abs=0.005)


def test_independent_errors_add_up_as_squares_and_weigh_by_their_share() -> None:
    costs: dict[str, object] = {"sync_us": 1000.0, "delay_us": 1000.0}  # half the time each
    disk, links, both = (
        interval(errors, **costs)[2] / interval(errors, **costs)[1] - 1
        for errors in ({"disk": 10.0}, {"links": 10.0}, {"disk": 10.0, "links": 10.0})
    )
    assert disk == pytest.approx(links, rel=0.02)
    assert both == pytest.approx(math.hypot(disk, links), rel=0.02)
    assert disk == pytest.approx(1.645 * (1 - 1 / 1.05), rel=0.05)


def test_a_model_that_does_not_say_gives_no_interval() -> None:
    cell = Cell(wal="mem", engine="mem", transport="tcp", conc=1)
    model = make_model(stage_us=1.0)
    (result,) = run_grid("sim", [cell], Plan(proposals=20), model=model)
    assert prediction_interval(result, Plan(), model) is None
    unsaid = msgspec.structs.replace(model, calibrated=Calibrated(conc=(1, 1), bytes=(1, 1)))
    assert prediction_interval(result, Plan(), unsaid) is None
