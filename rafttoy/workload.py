"""The load: closed and open loops, the same generator in both worlds.

A closed loop has N workers, each with one proposal outstanding, which proposes again the moment it is acknowledged. Workers that
are acknowledged together propose together, so they travel as one batch with one start time: N independent workers at a cost per
batch. An open loop proposes at times drawn beforehand, whatever the group does; its latency counts from the *intended* start
(coordinated omission: Tene, "How NOT to measure latency"). Arrivals are released whenever the peer turns to its client or takes
what it proposed, and every millisecond: a generator that woke up for each would keep the loop awake, and the disk thread waiting for
the interpreter's lock (with a log in a file 56,000/s took 169 ms a proposal, and 8 since then).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rafttoy.cell import Cell, Plan
from rafttoy.observe import Histogram
from rafttoy.ports import Ports
from rafttoy.proposal import PayloadMaker
from rafttoy.raft.entries import Payloads
from rafttoy.sync import Signal

__all__ = ["ClosedLoop", "Load", "OpenLoop", "make_load"]

LATE_NS = 5_000_000
"""An arrival that is released later than this after its time counts as late."""

_DRAW = 4096  # arrivals drawn at a time

Propose = Callable[[Any, Any, Payloads], None]


class Load:
    """What both loops share: warm-up, the measured window, the end.

    `started_ns` and `ended_ns` bound the window. `ops` proposals were acknowledged in it, `latency` (ns) is theirs."""

    def __init__(self, ports: Ports, plan: Plan, maker: PayloadMaker, propose: Propose) -> None:
        self.latency = Histogram()
        self.batches = Histogram()
        self.ops = 0
        self.losses = 0
        self.late = 0
        self.outstanding = 0
        self.total = 0
        self.started_ns = 0
        self.ended_ns = 0
        self.last_ack_ns = 0
        self.on_measure: Callable[[], None] = lambda: None
        self.done = Signal(ports.tasks)
        self._clock = ports.clock
        self._maker = maker
        self._propose = propose
        self._plan = plan
        self._now_ns = 0
        self._acked_now = 0
        self._retry = 0
        self._begin_ns = 0
        self._measuring = False
        self._stopping = False

    def start(self) -> None:
        self._begin_ns = self.last_ack_ns = self._clock.now_ns()
        plan = self._plan
        self._warm_ns = self._begin_ns + int(plan.warmup_seconds * 1e9)
        self._warm_ops = 0 if not plan.proposals or not plan.warmup_seconds else max(1, plan.proposals // 10)
        self._until_ns = self._warm_ns + int(plan.seconds * 1e9)
        self._maybe_measure(self._begin_ns)

    def stop(self) -> None:
        """Ends the window now, if it is not over; nothing more is proposed."""
        if not self._stopping:
            self._stopping = True
            self.ended_ns = self._clock.now_ns()
            self.done.set()

    @property
    def measuring(self) -> bool:
        return self._measuring and not self._stopping

    def drained(self) -> bool:
        return not self.outstanding

    # --- Client ---

    def _lose(self, count: int) -> None:
        self.losses += count
        self.outstanding -= count
        self._retry += count

    def _acknowledge(self, count: int) -> int:
        """Books acknowledgements; returns the time of this round."""
        if not self._acked_now:
            self._now_ns = self._clock.now_ns()
        self._acked_now += count
        self.outstanding -= count
        return self._now_ns

    def _book(self) -> int:
        """Closes a round: moves the window on, and says how many were acknowledged."""
        count, self._acked_now = self._acked_now, 0
        if not count:
            return 0
        now_ns = self.last_ack_ns = self._now_ns
        self.total += count
        plan = self._plan
        if self._measuring and not self._stopping:
            self.ops += count
            self.batches.add(count)
            if self.ops >= plan.proposals if plan.proposals else now_ns >= self._until_ns:
                self._stopping = True
                self.ended_ns = now_ns
                self.done.set()
        elif not self._measuring:
            self._maybe_measure(now_ns)
        return count

    def _maybe_measure(self, now_ns: int) -> None:
        plan = self._plan
        if self.total >= self._warm_ops if plan.proposals else now_ns >= self._warm_ns:
            self._measuring = True
            self.started_ns = now_ns
            if not plan.proposals:
                self._until_ns = now_ns + int(plan.seconds * 1e9)
            self.on_measure()


class ClosedLoop(Load):
    """`conc` workers, one proposal each."""

    def __init__(self, ports: Ports, plan: Plan, maker: PayloadMaker, propose: Propose, conc: int) -> None:
        super().__init__(ports, plan, maker, propose)
        self._conc = conc

    def start(self) -> None:
        super().start()
        self._issue(self._conc)

    def acknowledged(self, token: int, skip: int, count: int) -> None:
        """`token` is when these workers proposed."""
        now_ns = self._acknowledge(count)
        if self._measuring and not self._stopping:
            self.latency.add(now_ns - token, count)

    def failed(self, token: int, skip: int, count: int) -> None:
        self._lose(count)

    def turn(self) -> None:
        count = self._book()
        if not self._stopping:
            self._issue(count)

    def retry(self) -> None:
        """Workers whose proposals were lost propose again."""
        count, self._retry = self._retry, 0
        if count and not self._stopping:
            self._issue(count)

    def _issue(self, count: int) -> None:
        self.outstanding += count
        self._propose(self, self._clock.now_ns(), self._maker.make(count))

    def top_up(self) -> None:
        """Who waits for an acknowledgement has nothing to add."""

    async def run(self) -> None:
        """Nothing to pace."""


class OpenLoop(Load):
    """`rate` arrivals a second, evenly spaced or Poisson."""

    def __init__(self, ports: Ports, plan: Plan, maker: PayloadMaker, propose: Propose, rate: float, arrival: str) -> None:
        super().__init__(ports, plan, maker, propose)
        self._rate = rate
        self._poisson = arrival == "poisson"
        self._tick_ns = int(plan.tick_seconds * 1e9)
        self._rng = ports.random.stream("arrivals")
        self._at = 0

    def acknowledged(self, token: Any, skip: int, count: int) -> None:
        """`token` holds the intended start of each."""
        now_ns = self._acknowledge(count)
        if self._measuring and not self._stopping:
            self.latency.extend(now_ns - (token if count == len(token) else token[skip : skip + count]))

    def failed(self, token: Any, skip: int, count: int) -> None:
        self._lose(count)

    def start(self) -> None:
        super().start()
        self._draw(self._begin_ns)

    def turn(self) -> None:
        self._book()
        self._release()

    def top_up(self) -> None:
        """What came since the peer's last turn goes with what was released then: a pipeline that acknowledges early in its round would
        else have arrivals wait for the rest of it, and one that does so last would not (in the model 60,000/s took as long with
        early acknowledgements as without; now they are 7 % shorter)."""
        self._release()

    def retry(self) -> None:
        """An open loop does not propose again: what is lost is counted."""
        self._retry = 0

    async def run(self) -> None:
        """Releases what is due where the peer has no turn to give. Sleeps for a tick even when the next arrival is due already, as it often
        is at 50,000 a second: releasing takes as long as they are apart."""
        while not self._stopping:
            self._release()
            wait_ns = self._times[self._at] - self._clock.now_ns()
            await self._clock.sleep_ns(max(wait_ns, self._tick_ns))

    def _release(self) -> None:
        """Proposes the arrivals that are due (of one draw, so that no rate fills the memory), each with its intended time."""
        now_ns = self._clock.now_ns()
        begin = self._at
        if self._stopping or self._times[begin] > now_ns:
            return
        due = bisect_right(self._times, now_ns, begin)
        intended, self._at = self._arrivals[begin:due], due
        if self._measuring and now_ns - self._times[begin] > LATE_NS:
            self.late += int((now_ns - intended > LATE_NS).sum())
        if due == len(self._times):
            self._draw(self._times[-1])
        self.outstanding += due - begin
        self._propose(self, intended, self._maker.make(due - begin))

    def _draw(self, after_ns: int) -> None:
        """The arrivals after that time, as numbers to look up and as an array to reckon with."""
        gaps = self._rng.exponential(1e9 / self._rate, _DRAW) if self._poisson else np.full(_DRAW, 1e9 / self._rate)
        self._arrivals: NDArray[np.int64] = after_ns + np.cumsum(gaps).astype(np.int64)
        self._times: list[int] = self._arrivals.tolist()
        self._at = 0


def make_load(ports: Ports, cell: Cell, plan: Plan, propose: Propose, *, content: bool, first_id: int = 1) -> ClosedLoop | OpenLoop:
    """The load of `cell`; its proposals have the ids first_id, first_id + 1, …"""
    maker = PayloadMaker(ports.random.stream("payload"), cell.bytes, content=content, first_id=first_id)
    if cell.rate:
        return OpenLoop(ports, plan, maker, propose, cell.rate, cell.arrival)
    return ClosedLoop(ports, plan, maker, propose, cell.conc)
