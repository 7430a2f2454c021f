"""Formulas against cases worked out by hand, and against exact results of queueing theory."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rafttoy.analysis.queueing import (
    disk_ceiling,
    network_ceiling,
    order_statistic,
    paxos_ceiling,
    queue_length,
    quorum_latency_ns,
    serial_ceiling,
    transmit_ns,
    wait_ns,
    window_ceiling,
)


def test_ppm_with_its_defaults() -> None:
    """paxos_defaults.py: 25 µs to take a message in, 1 µs to send one, 100 B at 980 Mbit/s, three nodes: 12.3k rounds/s."""
    transmit = transmit_ns(100, 980e6)
    assert transmit == pytest.approx(816.3, abs=0.1)
    assert paxos_ceiling(3, 25_000, 1_000, transmit) == pytest.approx(12_333, abs=1)
    assert paxos_ceiling(3, 25_000, 1_000, transmit, lanes=2) == pytest.approx(2 * 12_333, abs=2)


def test_latency_of_a_round_adds_its_parts() -> None:
    assert quorum_latency_ns(1_000, 427_000, 30_000, 25_000, 816) == 1_000 + 427_000 + 30_000 + 25_000 + 2 * 816


@pytest.mark.parametrize("load", [0.1, 0.5, 0.9, 0.99])
def test_marchal_is_exact_where_theory_is(load: float) -> None:
    assert queue_length(load) == pytest.approx(load**2 / (2 * (1 - load)))  # M/D/1
    assert queue_length(load, service_scv=1.0) == pytest.approx(load**2 / (1 - load))  # M/M/1
    for scv in (0.25, 4.0):  # M/G/1: Pollaczek and Khinchine
        assert queue_length(load, service_scv=scv) == pytest.approx(load**2 * (1 + scv) / (2 * (1 - load)))


def test_nothing_waits_in_a_regular_stream_and_everything_behind_an_overload() -> None:
    assert queue_length(0.9, arrival_scv=0.0, service_scv=0.0) == 0.0  # D/D/1
    assert math.isinf(queue_length(1.0))
    assert wait_ns(0.0, 1000) == 0.0


def test_wait_at_half_load_of_a_fixed_service_is_half_a_service() -> None:
    assert wait_ns(500_000, 1_000) == pytest.approx(500)  # M/D/1: load times service over twice the idle share


def test_order_statistics_of_a_uniform_are_evenly_spaced() -> None:
    for n in (1, 2, 5):
        for k in range(1, n + 1):
            assert order_statistic([0.0, 1.0], [0.0, 600.0], k, n) == pytest.approx(600 * k / (n + 1))


def test_order_statistics_against_draws() -> None:
    shares, quantiles = [0.0, 0.5, 0.9, 0.99, 1.0], [80.0, 110.0, 150.0, 400.0, 3000.0]
    draws = np.sort(np.interp(np.random.default_rng(1).random((200_000, 4)), shares, quantiles), axis=1)
    for k in range(1, 5):
        assert order_statistic(shares, quantiles, k, 4) == pytest.approx(float(draws[:, k - 1].mean()), rel=0.02)


def test_quantiles_that_jump_weigh_nothing_where_they_do() -> None:
    assert order_statistic([0.0, 0.5, 0.5, 1.0], [10.0, 10.0, 30.0, 30.0], 1, 1) == pytest.approx(20.0)
    assert order_statistic([0.0, 0.5, 0.5, 1.0], [10.0, 10.0, 30.0, 30.0], 1, 2) == pytest.approx(15.0)


def test_bounds_of_network_window_and_serial_work() -> None:
    assert network_ceiling(125e6, 3, 250) == 250_000  # 1 Gbit/s to two followers
    assert math.isinf(network_ceiling(125e6, 1, 250))
    assert window_ceiling(100, 5e6) == 20_000  # Little: 100 on the way for 5 ms
    assert serial_ceiling(20_000) == 50_000
    assert math.isinf(serial_ceiling(0))


def test_a_disk_of_32_mb_a_second_in_synced_pages_gives_eight_thousand_of_them() -> None:
    """pebble#92: 4 KiB synced writes that grow a file, 32 MB/s on an m5d.4xlarge; reused, 138 MB/s."""
    assert disk_ceiling(1, 128_000, 0, 0) == pytest.approx(32e6 / 4096, rel=0.001)
    assert disk_ceiling(16, 100_000, 256, 4.0) == pytest.approx(16 / (100e-6 + 16 * 256 * 4e-9))
