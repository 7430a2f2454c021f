"""What a run records: stages, weighted histograms, traces. Cheap enough to be always on; no clock of its own."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from operator import itemgetter
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

__all__ = ["BESIDE_LOOP", "Histogram", "LinkCounters", "Metrics", "StageRecord", "Summary", "summarise"]

BESIDE_LOOP = ".thread"
"""Ends the name of a stage that is carried out on a thread of its own, beside the loop."""

_KEEP = 2048  # samples a stage keeps for fitting
_FOLD = 4096  # values a histogram holds before it folds them into buckets, which takes 0.15 ms: the loop waits for it
_SUB_BITS = 9  # 512 buckets an octave: values are kept to within 0.2 %
_KEYS = 65 << _SUB_BITS
_FIRST, _SECOND = itemgetter(0), itemgetter(1)


class StageRecord:
    """Totals of one stage, and its first samples (entries, bytes, cpu_ns) for calibration.

    `count` executions did `entries` entries of `nbytes` bytes; `measured` of them were clocked and took `cpu_ns` together. What was
    put into `pending` (entries, bytes) is added up when somebody looks: an execution costs no more than an append to a list."""

    __slots__ = ("_count", "_entries", "_nbytes", "cpu_ns", "measured", "name", "pending", "samples")

    def __init__(self, name: str) -> None:
        self.name = name
        self._count = self._entries = self._nbytes = self.cpu_ns = self.measured = 0
        self.pending: list[tuple[int, int]] = []
        self.samples = array("q")

    @property
    def count(self) -> int:
        self._add_up()
        return self._count

    @property
    def entries(self) -> int:
        self._add_up()
        return self._entries

    @property
    def nbytes(self) -> int:
        self._add_up()
        return self._nbytes

    def _add_up(self) -> None:
        pending = self.pending
        if pending:
            self._count += len(pending)
            self._entries += sum(map(_FIRST, pending))
            self._nbytes += sum(map(_SECOND, pending))
            pending.clear()

    def add(self, entries: int, nbytes: int, cpu_ns: int) -> None:
        self._count += 1
        self._entries += entries
        self._nbytes += nbytes
        self.cpu_ns += cpu_ns
        self.measured += 1

    def clock(self, entries: int, nbytes: int, cpu_ns: int) -> None:
        """One of those that are pending was clocked."""
        self.cpu_ns += cpu_ns
        self.measured += 1
        self.sample(entries, nbytes, cpu_ns)

    def sample(self, entries: int, nbytes: int, cpu_ns: int) -> None:
        """Keeps one execution for fitting: of many, every second is dropped again and again, so that all of the run is seen."""
        self.samples.extend((entries, nbytes, cpu_ns))
        if len(self.samples) >= 3 * 2 * _KEEP:
            table = np.frombuffer(self.samples, dtype=np.int64).reshape(-1, 3)
            self.samples = array("q", table[::2].tobytes())

    def total_cpu_ns(self) -> int:
        """CPU time of all executions, from those that were clocked."""
        return self.cpu_ns * self.count // self.measured if self.measured else 0

    def clear(self) -> None:
        self.pending.clear()
        self._count = self._entries = self._nbytes = self.cpu_ns = self.measured = 0
        del self.samples[:]

    def to_json(self) -> dict[str, Any]:
        return {
            "count": self.count,
            "entries": self.entries,
            "bytes": self.nbytes,
            "cpu_us": round(self.total_cpu_ns() / 1e3, 1),
        }


class LinkCounters:
    """Packets that one peer's links wrote and took in, over all streams. A packet is one write, one frame."""

    __slots__ = ("bytes_received", "bytes_sent", "packets_received", "packets_sent")

    def __init__(self) -> None:
        self.packets_sent = self.bytes_sent = self.packets_received = self.bytes_received = 0

    def sent(self, nbytes: int) -> None:
        self.packets_sent += 1
        self.bytes_sent += nbytes

    def received(self, nbytes: int) -> None:
        self.packets_received += 1
        self.bytes_received += nbytes

    def as_dict(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in ("packets_sent", "bytes_sent", "packets_received", "bytes_received")}


class Summary(msgspec.Struct, frozen=True):
    """Of a distribution, in its own unit."""

    count: int
    mean: float
    stddev: float
    p50: float
    p90: float
    p99: float
    p999: float
    max: float


class Histogram:
    """Values with weights, to within 0.2 %, in bounded memory (log-linear buckets, as HdrHistogram's)."""

    __slots__ = ("_max", "_single", "_singles", "_sum", "_sum2", "_weighted", "_weights", "count")

    def __init__(self) -> None:
        self._weighted: list[int] = []  # value, weight, value, weight, …
        self._single: list[NDArray[np.int64]] = []  # values of weight one
        self._singles = 0
        self._weights = np.zeros(_KEYS, dtype=np.int64)  # by key; pages that no value falls on are never touched
        self.count = 0
        self._sum = self._sum2 = 0.0
        self._max = 0

    def add(self, value: int, weight: int = 1) -> None:
        """`weight` proposals (batches, …) of the same `value` >= 0."""
        weighted = self._weighted
        weighted += (value, weight)
        if len(weighted) >= _FOLD:
            self._fold()

    def extend(self, values: Sequence[int] | NDArray[np.int64]) -> None:
        """Many values of weight one; an array is kept as it is until it is folded."""
        self._single.append(np.asarray(values, dtype=np.int64))
        self._singles += len(values)
        if self._singles >= _FOLD:
            self._fold()

    def merge(self, other: Histogram) -> None:
        other._fold()
        self._fold()
        self._weights += other._weights
        self._max = max(self._max, other._max)
        self.count += other.count
        self._sum += other._sum
        self._sum2 += other._sum2

    def clear(self) -> None:
        self.__init__()  # type: ignore[misc]

    def _fold(self) -> None:
        if not self._weighted and not self._singles:
            return
        pairs = np.array(self._weighted, dtype=np.int64).reshape(-1, 2)
        values = np.concatenate([pairs[:, 0], *self._single])
        weights = np.concatenate([pairs[:, 1], np.ones(self._singles, dtype=np.int64)])
        self._max = max(self._max, int(values.max()))
        self.count += int(weights.sum())
        self._sum += float((values * weights.astype(np.float64)).sum())
        self._sum2 += float((values.astype(np.float64) ** 2 * weights).sum())
        # frexp gives value = m * 2**e with 0.5 <= m < 1: the octave is e, the place within it is linear in m
        mantissa, exponent = np.frexp(values.astype(np.float64))
        keys = exponent.astype(np.int64) << _SUB_BITS | ((mantissa - 0.5) * (2 << _SUB_BITS)).astype(np.int64).clip(0)
        np.add.at(self._weights, keys, weights)
        self._weighted, self._single, self._singles = [], [], 0

    def buckets(self) -> list[tuple[float, int]]:
        """(representative value, weight), ascending."""
        self._fold()
        out = []
        for key in np.flatnonzero(self._weights).tolist():
            octave, place = key >> _SUB_BITS, key & ((1 << _SUB_BITS) - 1)
            middle = 0.5 if octave > _SUB_BITS + 1 else 0.0  # narrower buckets hold one whole number
            value = float(np.ldexp(0.5 + (place + middle) / (2 << _SUB_BITS), octave))
            out.append((min(value, float(self._max)) if key else 0.0, int(self._weights[key])))
        return out

    def quantiles(self, shares: Sequence[float]) -> list[float]:
        """The value that a share of the weight does not exceed (nearest rank); 0 while empty."""
        table = self.buckets()
        if not table:
            return [0.0 for _ in shares]
        cumulative = np.cumsum([weight for _, weight in table])
        ranks = np.ceil(np.asarray(shares) * cumulative[-1]).clip(1)
        return [table[int(i)][0] for i in np.searchsorted(cumulative, ranks)]

    def summary(self, scale: float = 1.0) -> Summary:
        """`scale` turns the recorded unit into the reported one (1e-3: ns to µs)."""
        p50, p90, p99, p999 = self.quantiles((0.5, 0.9, 0.99, 0.999))
        n = self.count or 1
        mean = self._sum / n
        spread = max(0.0, self._sum2 / n - mean * mean) ** 0.5
        parts = (mean, spread, p50, p90, p99, p999, float(self._max))
        return Summary(self.count, *(round(part * scale, 3) for part in parts))


def summarise(histogram: Histogram, scale: float = 1.0) -> dict[str, float]:
    """The summary as a JSON object, without the count and the spread."""
    summary = histogram.summary(scale)
    return {name: getattr(summary, name) for name in ("mean", "p50", "p90", "p99", "p999", "max")}


class Metrics:
    """The histograms of the original, under its names; latencies are recorded in ns and reported in µs.

    What happens in every round is put into a list, which costs next to nothing, and `fold` moves it into the histograms:

    saves    (ns, entries) of each append
    applies  (ns, entries) of each apply
    rounds   ns of each Ready, from when it was handed out until it was carried out
    """

    NAMES = ("append_batch_sizes", "apply_batch_sizes", "pipeline_latency_us", "append_latency_us", "apply_latency_us")
    __slots__ = (
        *("append_batch_sizes", "append_latency", "apply_batch_sizes", "apply_latency", "pipeline_latency"),
        *("applies", "rounds", "saves"),
    )

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.saves: list[tuple[int, int]] = []
        self.applies: list[tuple[int, int]] = []
        self.rounds: list[int] = []
        self.append_batch_sizes = Histogram()
        self.apply_batch_sizes = Histogram()
        self.pipeline_latency = Histogram()
        self.append_latency = Histogram()
        self.apply_latency = Histogram()

    def fold(self) -> None:
        """To be called from time to time: until then the lists grow."""
        for rows, latency, sizes in (
            (self.saves, self.append_latency, self.append_batch_sizes),
            (self.applies, self.apply_latency, self.apply_batch_sizes),
        ):
            if rows:
                columns = np.array(rows, dtype=np.int64)
                latency.extend(columns[:, 0])
                sizes.extend(columns[:, 1])
                rows.clear()
        if self.rounds:
            self.pipeline_latency.extend(self.rounds)
            self.rounds.clear()

    def to_json(self) -> dict[str, dict[str, float]]:
        """{name: {count, mean, p50, p90, p99, p999, max, stddev}}."""
        self.fold()
        out: dict[str, dict[str, float]] = {}
        for name in self.NAMES:
            latency = name.endswith("_us")
            histogram: Histogram = getattr(self, name.removesuffix("_us"))
            out[name] = msgspec.to_builtins(histogram.summary(1e-3 if latency else 1.0))
        return out
