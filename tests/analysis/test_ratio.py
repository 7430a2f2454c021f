"""Ratios of two sides' runs, and what chance has to do with them."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from rafttoy.analysis.ratio import CONFIDENCE, ratio_of, u_counts


def test_counts_of_u_are_those_of_all_orders() -> None:
    for n, m in ((1, 1), (2, 3), (4, 4), (5, 3)):
        places = itertools.combinations(range(n + m), n)
        seen = Counter(sum(place - i for i, place in enumerate(chosen)) for chosen in places)
        assert u_counts(n, m) == [seen[u] for u in range(n * m + 1)]


def test_the_ratio_of_clear_samples() -> None:
    found = ratio_of([200, 210, 190, 205, 195], [100, 101, 99, 98, 102])
    assert found.ratio == pytest.approx(2.0, rel=0.01)
    assert 1.8 < found.low < 2.0 < found.high < 2.2
    assert found.p == pytest.approx(2 / 252)
    assert found.coverage == pytest.approx(1 - 2 * 4 / 252)


def test_few_rounds_own_up_to_it() -> None:
    three = ratio_of([3.0, 3.1, 3.2], [1.0, 1.1, 1.2])
    assert (three.low, three.high) == (3.0 / 1.2, 3.2 / 1.0)
    assert three.coverage == pytest.approx(0.9)
    assert three.p == pytest.approx(0.1)
    one = ratio_of([3.0], [2.0])
    assert (one.ratio, one.low, one.high, one.coverage, one.p) == (1.5, 1.5, 1.5, 0.0, 1.0)


@given(st.lists(st.floats(1, 100), min_size=4, max_size=8), st.lists(st.floats(1, 100), min_size=4, max_size=8))
def test_the_interval_holds_what_the_test_does_not_reject(ours: list[float], theirs: list[float]) -> None:
    found = ratio_of(ours, theirs)
    assert found.coverage >= CONFIDENCE
    assert found.low <= found.ratio <= found.high

    def p(ratio: float) -> float:
        return float(stats.mannwhitneyu(ours, [ratio * value for value in theirs], method="exact").pvalue)

    edge = 1e-6
    assert p(found.low * (1 - edge)) <= 1 - CONFIDENCE
    assert p(found.high * (1 + edge)) <= 1 - CONFIDENCE
    quotients = sorted(mine / other for mine in ours for other in theirs)
    for low, high in itertools.pairwise(quotients):
        if found.low <= low and high <= found.high and high > low * (1 + 4 * edge):
            assert p((low * high) ** 0.5) > 1 - CONFIDENCE
