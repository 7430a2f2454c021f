"""Formulas of queues and bounds, each with its source. Times in ns, rates per second, sizes in bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from scipy.special import betainc

__all__ = [
    "NS",
    "disk_ceiling",
    "network_ceiling",
    "order_statistic",
    "paxos_ceiling",
    "queue_length",
    "quorum_latency_ns",
    "serial_ceiling",
    "transmit_ns",
    "wait_ns",
    "window_ceiling",
]

NS = 1e9


def transmit_ns(nbytes: float, bits_per_second: float) -> float:
    """t_tx = 8 · bytes / bandwidth."""
    return 8.0 * nbytes / bits_per_second * NS


def paxos_ceiling(nodes: int, receive_ns: float, send_ns: float, transmit: float, lanes: int = 1) -> float:
    """Rounds a second that a leader can process, one request a round and no storage.

    R_max = n_p / [N (µ_d + t_tx) + 2 (µ_s + t_tx)]: it takes in N messages a round (the request and N - 1 answers) and serialises two
    (to the followers at once, to the client). A. Charapko, Paxos Performance Model (github.com/acharapko/ppm), `computeRmax`."""
    return lanes * serial_ceiling(nodes * (receive_ns + transmit) + 2 * (send_ns + transmit))


def queue_length(load: float, arrival_scv: float = 1.0, service_scv: float = 0.0) -> float:
    """Mean number that wait in a G/G/1 queue at `load` = λ · service; infinite from 1 on.

    L_q = r² (1 + C_s)(C_a + r² C_s) / [2 (1 - r)(1 + r² C_s)] with r the load and C the squared coefficients of variation (W. G.
    Marchal, "An approximate formula for waiting time in single server queues", AIIE Transactions 8, 1976). C_a = 1, C_s = 0 is M/D/1,
    C_a = C_s = 1 is M/M/1, both exact."""
    if load >= 1.0:
        return math.inf
    square = load * load
    return square * (1 + service_scv) * (arrival_scv + square * service_scv) / (2 * (1 - load) * (1 + square * service_scv))


def wait_ns(rate: float, service_ns: float, arrival_scv: float = 1.0, service_scv: float = 0.0) -> float:
    """Mean wait before service: W_q = L_q / λ (Little 1961)."""
    return queue_length(rate * service_ns / NS, arrival_scv, service_scv) / rate * NS if rate else 0.0


def order_statistic(shares: Sequence[float], quantiles: Sequence[float], k: int, n: int) -> float:
    """Mean of the k-th smallest of `n` independent draws (1 <= k <= n) from a distribution given by `quantiles` at ascending `shares`
    from 0 to 1, linear between them.

    E X_(k:n) = ∫ Q(u) dI_u(k, n - k + 1), with I the regularised incomplete beta function: the k-th smallest of uniform draws is
    Beta(k, n - k + 1) (H. A. David, Order Statistics, §2.1 and §3.1). Exact for such a Q, since u · Beta(k, b) ∝ Beta(k + 1, b)."""
    assert 1 <= k <= n
    b = n - k + 1
    weights = [float(betainc(k, b, share)) for share in shares]
    moments = [k / (n + 1) * float(betainc(k + 1, b, share)) for share in shares]  # ∫ u dI up to each share
    total = 0.0
    for i in range(len(shares) - 1):
        width = shares[i + 1] - shares[i]
        if width <= 0:
            continue
        slope = (quantiles[i + 1] - quantiles[i]) / width
        base = quantiles[i] - slope * shares[i]
        total += base * (weights[i + 1] - weights[i]) + slope * (moments[i + 1] - moments[i])
    return total


def quorum_latency_ns(send_ns: float, round_trip_ns: float, queue_ns: float, receive_ns: float, transmit: float) -> float:
    """Latency of one round: µ_s + RTT_(q-1) + W_q + µ_d + 2 t_tx, where RTT_(q-1) is the (q-1)-th order statistic of the N - 1 round
    trips (ppm, `model_random_round_arrival`)."""
    return send_ns + round_trip_ns + queue_ns + receive_ns + 2 * transmit


def network_ceiling(bytes_per_second: float, nodes: int, nbytes: float) -> float:
    """Proposals of `nbytes` a second that a leader can send to all: X <= BW / ((N - 1) · s)."""
    return bytes_per_second / ((nodes - 1) * nbytes) if nodes > 1 else math.inf


def window_ceiling(window: float, round_trip_ns: float) -> float:
    """Proposals a second with at most `window` of them on the way to a follower: X <= window / RTT (Little 1961)."""
    return window / round_trip_ns * NS if round_trip_ns else math.inf


def serial_ceiling(work_ns: float) -> float:
    """Operations a second of what is done one after another: 1 / W (the utilisation law, Denning & Buzen 1978)."""
    return NS / work_ns if work_ns else math.inf


def disk_ceiling(batch: float, sync_ns: float, nbytes: float, byte_ns: float) -> float:
    """Proposals a second of a log that syncs every `batch` of them, `nbytes` each: X <= B / (t_sync + B · s / BW)."""
    return batch * serial_ceiling(sync_ns + batch * nbytes * byte_ns)
