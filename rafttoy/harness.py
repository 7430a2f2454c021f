"""How fast the instrument is by itself: the load of a real run, acknowledged at once.

Client, buffer, tracker and event loop are those that a real run has; behind them is no core, log, link or engine. What they reach
bounds every result of the same load: one that is near the bound tells of the instrument, not of what it was to measure.
"""

from __future__ import annotations

import msgspec

from rafttoy.cell import Cell, Plan
from rafttoy.ports import Ports
from rafttoy.proposal import Desk, Tracker, join_payloads
from rafttoy.raft.entries import EntryBatch, EntryType
from rafttoy.workload import ClosedLoop, OpenLoop, make_load

__all__ = ["harness_ceiling"]

_SECONDS, _WARMUP_SECONDS = 0.2, 0.05
_FLOOD_PER_S = 1e9
"""Of an open loop: more than anyone serves, so that what is served is all that can be."""


async def harness_ceiling(ports: Ports, cell: Cell, plan: Plan, *, content: bool) -> float:
    """Proposals a second that the load of `cell` comes to with nothing behind it, on this peer's loop and in about 0.3 s of its time.

    An open loop is flooded: the figure is what it can release and have acknowledged, not its rate."""
    asked = msgspec.structs.replace(cell, rate=_FLOOD_PER_S) if cell.rate else cell
    short = msgspec.structs.replace(plan, seconds=_SECONDS, warmup_seconds=_WARMUP_SECONDS, proposals=0)
    desk = _AtOnce(ports, Tracker(keep_runs=plan.verify))
    load = make_load(ports, asked, short, desk.propose, content=content)
    desk.client = load
    load.start()
    pacer = ports.tasks.spawn(load.run(), "harness load")
    try:
        await desk.serve(load)
    finally:
        pacer.cancel()
    return load.ops / ((load.ended_ns - load.started_ns) / 1e9)


class _AtOnce(Desk):
    """All that is proposed is done. A round passes the event loop once, as one of a group does at least."""

    def __init__(self, ports: Ports, tracker: Tracker) -> None:
        super().__init__(ports, tracker)
        self._clock = ports.clock
        self._next = 1

    async def serve(self, load: ClosedLoop | OpenLoop) -> None:
        """Until the load is done."""
        while not load.ended_ns:
            if self.proposals.waiting:
                await self.ack([await self._accept()])
                await self._clock.sleep_ns(0)
            else:
                await self._signal.wait()

    async def _accept(self) -> EntryBatch:
        """The entries that these proposals would be, without their bytes: encoding is the group's work."""
        mark = self._proposing.start()
        waiting = self.proposals.drain()
        payloads = join_payloads([entry[0] for entry in waiting])
        batch = EntryBatch(self._next, 1, EntryType.NORMAL, payloads.count, None, payloads.nbytes, payloads.nbytes)
        self._next = batch.last + 1
        self.tracker.register(batch, waiting)
        await self._proposing.done(mark, payloads.count, payloads.nbytes)
        return batch
