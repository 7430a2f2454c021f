"""Histograms against numpy, and what a stage keeps of its executions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rafttoy import observe
from rafttoy.observe import Histogram, Metrics, StageRecord, summarise

SHARES = (0.0, 0.001, 0.25, 0.5, 0.9, 0.99, 0.999, 1.0)
WITHIN = 0.002
"""What the buckets promise."""

values = arrays(np.int64, st.integers(1, 300), elements=st.integers(0, 1 << 50))
weighted = st.lists(st.tuples(st.integers(0, 1 << 45), st.integers(1, 1000)), min_size=1, max_size=100)


def nearest_rank(values: np.ndarray, share: float) -> float:
    return float(np.quantile(values, share, method="inverted_cdf"))


def assert_describes(histogram: Histogram, values: np.ndarray) -> None:
    """The histogram is one of exactly these values."""
    summary = histogram.summary()
    as_floats = values.astype(np.float64)
    assert summary.count == len(values)
    assert summary.max == values.max()
    assert summary.mean == pytest.approx(as_floats.mean(), rel=1e-12, abs=1e-3)
    # a mean of squares less a squared mean: what cancels is as large as the mean
    assert summary.stddev == pytest.approx(as_floats.std(), rel=1e-6, abs=1e-3 + 1e-6 * as_floats.mean())
    found = histogram.quantiles(SHARES)
    assert found == sorted(found)
    for share, value in zip(SHARES, found, strict=True):
        expected = nearest_rank(values, share)
        assert abs(value - expected) <= WITHIN * expected, (share, value, expected)
    assert [summary.p50, summary.p90, summary.p99, summary.p999] == pytest.approx(histogram.quantiles((0.5, 0.9, 0.99, 0.999)), abs=1e-3)


@given(values)
def test_quantiles_are_numpys(values: np.ndarray) -> None:
    one_by_one, at_once = Histogram(), Histogram()
    for value in values.tolist():
        one_by_one.add(value)
    at_once.extend(values)
    assert_describes(one_by_one, values)
    assert_describes(at_once, values)


@given(weighted)
def test_a_weight_is_so_many_equal_values(pairs: list[tuple[int, int]]) -> None:
    histogram = Histogram()
    for value, weight in pairs:
        histogram.add(value, weight)
    assert_describes(histogram, np.repeat([value for value, _ in pairs], [weight for _, weight in pairs]))


@given(values, values)
def test_a_merged_histogram_is_that_of_all_values(a: np.ndarray, b: np.ndarray) -> None:
    first, second = Histogram(), Histogram()
    first.extend(a)
    second.extend(b)
    first.merge(second)
    assert_describes(first, np.concatenate([a, b]))
    assert_describes(second, b)  # is left as it was


@given(arrays(np.int64, st.integers(1, 200), elements=st.integers(0, 1023)))
def test_small_whole_numbers_are_exact(values: np.ndarray) -> None:
    """Batch sizes: a median of one is 1, not 1.001."""
    histogram = Histogram()
    histogram.extend(values)
    assert histogram.quantiles(SHARES) == [nearest_rank(values, share) for share in SHARES]


def test_folding_changes_nothing_and_bounds_the_memory() -> None:
    rng = np.random.default_rng(1)
    values = (rng.lognormal(13.0, 2.0, 3 * observe._FOLD + 17)).astype(np.int64)
    histogram = Histogram()
    for at in range(0, len(values), 1000):
        if at % 2000:
            histogram.extend(values[at : at + 1000])
        else:
            for value in values[at : at + 1000].tolist():
                histogram.add(value)
        assert max(len(histogram._weighted), len(histogram._single)) < observe._FOLD + 1000
    assert_describes(histogram, values)
    assert len(histogram.buckets()) < 512 * 64


def test_extreme_latencies_keep_their_precision() -> None:
    hour_ns = 3600 * 10**9
    values = np.array([1, 999, 10**6, 10**9, hour_ns, 24 * hour_ns] * 3)
    histogram = Histogram()
    histogram.extend(values)
    assert_describes(histogram, values)


def test_an_empty_histogram_is_all_zeros() -> None:
    histogram = Histogram()
    assert histogram.quantiles((0.5, 0.99)) == [0.0, 0.0]
    assert histogram.summary() == observe.Summary(0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    histogram.add(5)
    histogram.clear()
    assert histogram.summary().count == 0
    histogram.add(7)
    assert histogram.summary().max == 7


def test_scale_turns_units() -> None:
    histogram = Histogram()
    histogram.extend(np.array([1000, 2000, 3000]))
    summary = histogram.summary(1e-3)
    assert (summary.count, summary.mean, summary.max) == (3, 2.0, 3.0)
    assert summarise(histogram, 1e-3) == {"mean": 2.0, "p50": summary.p50, "p90": 3.0, "p99": 3.0, "p999": 3.0, "max": 3.0}


def test_metrics_have_the_originals_names_and_report_latencies_in_microseconds() -> None:
    metrics = Metrics()
    metrics.append_batch_sizes.add(7)
    metrics.append_latency.add(1_500_000)
    told = metrics.to_json()
    assert list(told) == ["append_batch_sizes", "apply_batch_sizes", "pipeline_latency_us", "append_latency_us", "apply_latency_us"]
    assert told["append_batch_sizes"]["max"] == 7
    assert told["append_latency_us"]["max"] == 1500
    metrics.saves.append((2_500_000, 9))
    metrics.applies += [(1_000, 3), (3_000, 5)]
    metrics.rounds += [7_000, 9_000]
    told = metrics.to_json()
    assert (told["append_batch_sizes"]["max"], told["append_latency_us"]["max"], told["append_latency_us"]["count"]) == (9, 2500, 2)
    assert (told["apply_batch_sizes"]["mean"], told["apply_latency_us"]["mean"]) == (4, 2)
    assert (told["pipeline_latency_us"]["mean"], told["pipeline_latency_us"]["count"]) == (8, 2)
    assert metrics.saves == metrics.applies == metrics.rounds == []
    assert metrics.to_json() == told
    metrics.rounds.append(1)
    metrics.clear()
    assert all(row["count"] == 0 for row in metrics.to_json().values())


def test_a_stage_keeps_bounded_samples_of_all_of_a_run() -> None:
    record = StageRecord("work")
    count = 40_000
    for i in range(count):
        record.sample(i, 2 * i, 3 * i)
    rows = np.frombuffer(record.samples, dtype=np.int64).reshape(-1, 3)
    assert observe._KEEP <= len(rows) < 2 * observe._KEEP
    assert (rows[:, 1] == 2 * rows[:, 0]).all()
    assert (rows[:, 2] == 3 * rows[:, 0]).all()
    assert (np.diff(rows[:, 0]) > 0).all()
    assert rows[0, 0] == 0  # of the beginning as of the end
    assert rows[-1, 0] == count - 1


def test_a_stage_tells_totals() -> None:
    record = StageRecord("work")
    record.add(3, 100, 2000)
    record.add(1, 50, 500)
    assert record.to_json() == {"count": 2, "entries": 4, "bytes": 150, "cpu_us": 2.5}
    record.clear()
    assert record.to_json() == {"count": 0, "entries": 0, "bytes": 0, "cpu_us": 0.0}
