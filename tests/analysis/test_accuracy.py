"""Errors, order and residuals, on rows made up for it."""

from __future__ import annotations

from typing import Any

import pytest

from rafttoy.analysis.accuracy import latency_mape_pct, latency_noise_pct, noise_pct, rank_agreement, residuals, same_but_pipeline
from rafttoy.analysis.compare import Pair, compare
from rafttoy.analysis.compare_text import verdict
from rafttoy.experiment import Result
from tests.support import make_result


def rows(world: str, rates: dict[tuple[str, int], list[float]], **more: Any) -> list[Result]:
    return [
        make_result(world=world, pipeline=pipeline, conc=conc, ops_per_s=rate, seed=seed, **more)
        for (pipeline, conc), repeats in rates.items()
        for seed, rate in enumerate(repeats, 1)
    ]


def pairs(real: dict[tuple[str, int], list[float]], sim: dict[tuple[str, int], list[float]]) -> list[Pair]:
    return compare(rows("real", real), rows("sim", sim)).pairs


def test_gaps_within_the_noise_are_no_order() -> None:
    """100 ± 10 against 115 ± 10 meet; 100 ± 10 against 200 ± 10 do not."""
    real = {("basic", 1): [90.0, 100.0, 110.0], ("basic", 2): [105.0, 115.0, 125.0], ("basic", 3): [190.0, 200.0, 210.0]}
    right = rank_agreement(pairs(real, {("basic", 1): [100.0], ("basic", 2): [90.0], ("basic", 3): [300.0]}))
    assert (right.right, right.total, right.wrong) == (2, 2, [])
    wrong = rank_agreement(pairs(real, {("basic", 1): [100.0], ("basic", 2): [90.0], ("basic", 3): [95.0]}))
    assert (wrong.right, wrong.total) == (1, 2)
    assert [(faster.conc, slower.conc) for faster, slower in wrong.wrong] == [(3, 1)]
    assert str(wrong) == "1 of 2"


def test_pipelines_are_compared_under_the_same_load_only() -> None:
    real = {("basic", 1): [100.0], ("async-apply", 1): [120.0], ("basic", 8): [300.0], ("async-apply", 8): [500.0]}
    sim = {("basic", 1): [110.0], ("async-apply", 1): [100.0], ("basic", 8): [300.0], ("async-apply", 8): [400.0]}
    found = rank_agreement(pairs(real, sim), same_but_pipeline)
    assert (found.right, found.total) == (1, 2)
    assert rank_agreement(pairs(real, sim)).total == 6


def test_open_loops_have_no_order_of_throughput() -> None:
    real = [make_result(conc=0, rate=rate, ops_per_s=rate) for rate in (100.0, 200.0)]
    sim = [make_result(world="sim", conc=0, rate=rate, ops_per_s=rate) for rate in (100.0, 200.0)]
    assert rank_agreement(compare(real, sim).pairs).total == 0


def test_latency_errors_and_noise() -> None:
    real = [make_result(conc=1, latency_us={"p50": 100.0, "p99": 0.0}), make_result(conc=2, latency_us={"p50": 200.0, "p99": 400.0})]
    sim = [
        make_result(world="sim", conc=1, latency_us={"p50": 150.0, "p99": 7.0}),
        make_result(world="sim", conc=2, latency_us={"p50": 180.0, "p99": 300.0}),
    ]
    found = compare(real, sim).pairs
    assert latency_mape_pct(found, "p50") == pytest.approx((50 + 10) / 2)
    assert latency_mape_pct(found, "p99") == pytest.approx((0 + 25) / 2)  # without a measurement no error
    assert noise_pct(pairs({("basic", 1): [90.0, 100.0, 110.0]}, {("basic", 1): [1.0]})) == pytest.approx(10.0)


def test_the_noise_of_latencies_is_of_each_by_itself() -> None:
    runs = [
        make_result(seed=i, latency_us={"p50": p50, "p99": p99})
        for i, (p50, p99) in enumerate([(90.0, 400.0), (100.0, 100.0), (110.0, 200.0)])
    ]
    found = compare(runs, [make_result(world="sim", latency_us={"p50": 1.0, "p99": 1.0})]).pairs
    assert (latency_noise_pct(found, "p50"), latency_noise_pct(found, "p99")) == pytest.approx((10.0, 75.0))


def test_residuals_are_per_proposal_and_say_where_the_time_goes() -> None:
    def stages(**cpu_us: float) -> dict[str, dict[str, float]]:
        return {name: {"count": 1, "entries": 1, "bytes": 1, "cpu_us": value} for name, value in cpu_us.items()}

    real = [make_result(ops=100, stages=stages(send=300.0, ack=100.0))]
    sim = [make_result(world="sim", ops=200, stages=stages(send=600.0, ack=100.0, ready=50.0))]
    send, ack, ready = residuals(compare(real, sim).pairs)
    assert (send.stage, send.measured_us, send.predicted_us, send.share_pct, send.error_pct) == ("send", 3.0, 3.0, 75.0, 0.0)
    assert (ack.measured_us, ack.predicted_us, ack.error_pct) == (1.0, 0.5, -50.0)
    assert (ready.measured_us, ready.predicted_us) == (0.0, 0.25)


def test_the_verdict_says_what_is_known_of_noise() -> None:
    once = verdict(pairs({("basic", 1): [100.0]}, {("basic", 1): [90.0]}))
    assert once == "MAPE of p50 0.0 %, of p99 0.0 %; noise unknown, for want of repeats (--count)"
    more = verdict(pairs({("basic", 1): [99.0, 101.0], ("basic", 8): [300.0, 303.0]}, {("basic", 1): [90.0], ("basic", 8): [200.0]}))
    assert more.startswith(
        "MAPE of p50 0.0 %, of p99 0.0 %; 1 of 1 pairs of cells in the measured order; noise of 2 runs ±0.7 %, of their p50 ±"
    )
