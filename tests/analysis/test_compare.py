"""Pairing of measurement and prediction."""

from __future__ import annotations

import pytest

from rafttoy.analysis.compare import compare
from rafttoy.errors import CheckFailed
from tests.support import make_result


def run(world: str, conc: int, ops_per_s: float, **more: object):
    return make_result(world=world, conc=conc, ops_per_s=ops_per_s, **more)


def test_errors_are_relative_to_the_measurement_and_signed() -> None:
    comparison = compare([run("real", 1, 1000.0), run("real", 128, 8000.0)], [run("sim", 1, 1100.0), run("sim", 128, 6000.0)])
    assert [round(pair.error_pct, 6) for pair in comparison.pairs] == [10.0, -25.0]
    assert comparison.mape_pct() == pytest.approx(17.5)
    assert comparison.worst().cell.conc == 128
    assert comparison.summary().startswith("throughput of 2 cells: MAPE 17.5 %, worst -25.0 % (basic file+leveldb grpc conc=128")


def test_rows_stand_cell_by_cell_and_only_predictions_have_an_error() -> None:
    comparison = compare([run("real", 1, 1000.0), run("real", 128, 8000.0)], [run("sim", 1, 1100.0), run("sim", 128, 6000.0)])
    assert [(row.conc, row.world, row.error_pct) for row in comparison.rows] == [
        (1, "real", None),
        (1, "sim", 10.0),
        (128, "real", None),
        (128, "sim", -25.0),
    ]


def test_of_repeats_the_medians_are_compared_and_noise_stands_beside() -> None:
    real = [run("real", 1, rate, seed=seed) for seed, rate in enumerate((900.0, 1000.0, 1300.0), 1)]
    sim = [run("sim", 1, rate, seed=seed) for seed, rate in enumerate((990.0, 1050.0, 1010.0), 1)]
    (pair,) = compare(real, sim).pairs
    assert (pair.measured.ops_per_s, pair.predicted.ops_per_s, pair.repeats) == (1000.0, 1010.0, 3)
    assert pair.error_pct == pytest.approx(1.0)
    assert pair.spread_pct == pytest.approx(20.0)
    assert [row.error_pct for row in compare(real, sim).rows[3:]] == [-1.0, 5.0, 1.0]


def test_of_latencies_each_has_its_own_median() -> None:
    def latencies(*values: float) -> list[dict[str, float]]:
        return [{"p50": value, "p99": 10 * value} for value in values]

    real = [run("real", 1, rate, latency_us=each) for rate, each in zip((900.0, 1000.0, 1300.0), latencies(2.0, 9.0, 3.0), strict=True)]
    sim = [run("sim", 1, rate, latency_us=each) for rate, each in zip((990.0, 1050.0), latencies(4.0, 2.0), strict=True)]
    (pair,) = compare(real, sim).pairs
    assert (pair.measured.latency_us, pair.predicted.latency_us) == ({"p50": 3.0, "p99": 30.0}, {"p50": 3.0, "p99": 30.0})
    assert real[1].latency_us == {"p50": 9.0, "p99": 90.0}  # the rows stay as they were measured


def test_what_one_world_lacks_keeps_its_row_but_is_no_pair() -> None:
    comparison = compare([run("real", 1, 1000.0), run("real", 128, 8000.0)], [run("sim", 1, 1100.0)])
    assert [pair.cell.conc for pair in comparison.pairs] == [1]
    assert [(row.conc, row.world) for row in comparison.rows] == [(1, "real"), (1, "sim"), (128, "real")]
    assert comparison.unpaired() == comparison.rows[2:]


def test_a_run_without_any_acknowledgement_is_no_base_for_an_error() -> None:
    comparison = compare([run("real", 1, 0.0)], [run("sim", 1, 1100.0)])
    assert not comparison.pairs
    assert comparison.rows[1].error_pct is None


def test_worlds_that_disagree_on_what_binds_are_both_told() -> None:
    (pair,) = compare([run("real", 1, 1000.0, binding="disk")], [run("sim", 1, 1100.0, binding="loop@1")]).pairs
    assert pair.binding == "disk / loop@1"


def test_max_error_is_of_the_worst_cell_either_way() -> None:
    comparison = compare([run("real", 1, 1000.0), run("real", 128, 8000.0)], [run("sim", 1, 1100.0), run("sim", 128, 6000.0)])
    comparison.check(25.0)
    with pytest.raises(CheckFailed, match=r"1 of 2 cells beyond --max-error 24 %; worst: -25\.0 % \(basic .* conc=128"):
        comparison.check(24.0)
