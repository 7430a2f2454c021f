"""The simulated network of one group: ordered streams with delay, bandwidth, partitions and loss."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import simpy

from rafttoy.observe import LinkCounters
from rafttoy.ports import Packet
from rafttoy.sim.model import Link
from rafttoy.sim.runtime import Loop

__all__ = ["SimLinks", "SimNetwork"]


class SimNetwork:
    """Who listens, and which pairs cannot reach each other. `cut` holds (from, to) pairs whose packets are lost. `in_turn` as
    `Software.reads_in_turn`, `deferred` as `Links.deferred`."""

    def __init__(self, costs: Link, *, in_turn: bool = False, deferred: bool = False) -> None:
        self.costs = costs
        self.in_turn = in_turn
        self.deferred = deferred
        self.listeners: dict[int, SimLinks] = {}
        self.cut: set[tuple[int, int]] = set()


class SimLinks:
    def __init__(self, network: SimNetwork, id: int, loop: Loop) -> None:
        self.network = network
        self.deferred = network.deferred
        self.id = id
        self.loop = loop
        self.on_packet: Callable[[Packet], None] | None = None
        self.on_loss: Callable[[int], None] = lambda peer: None
        self._streams: dict[int, SimStream] = {}
        self._unread: list[Packet] = []
        self.count = LinkCounters()

    async def listen(self, on_packet: Callable[[Packet], None], on_loss: Callable[[int], None]) -> None:
        self.on_packet, self.on_loss = on_packet, on_loss
        self.network.listeners[self.id] = self

    def stream(self, to: int) -> SimStream:
        if to not in self._streams:
            self._streams[to] = SimStream(self, to)
        return self._streams[to]

    def take(self, packet: Packet) -> None:
        """A packet has arrived. A busy loop may be reading in turn: then it has the packet, with all that came meanwhile, once its tasks
        wait."""
        loop = self.loop
        if self._unread:
            self._unread.append(packet)
        elif loop.free_at_ns <= loop.env.now or not self.network.in_turn:
            self._read(packet)
        else:
            self._unread.append(packet)
            loop.env.process(self._read_in_turn())

    def _read_in_turn(self) -> Generator[simpy.Event, Any, None]:
        yield from self.loop.free()
        packets, self._unread = self._unread, []
        for packet in packets:
            self._read(packet)

    def _read(self, packet: Packet) -> None:
        if self.on_packet is not None:
            self.loop.charge(self.network.costs.receive.cost_ns(1, packet.size))
            self.count.received(packet.size)
            self.on_packet(packet)

    def counters(self) -> dict[str, int]:
        return self.count.as_dict()

    async def close(self) -> None:
        self.on_packet, self.on_loss = None, lambda peer: None
        if self.network.listeners.get(self.id) is self:
            del self.network.listeners[self.id]


class SimStream:
    """One direction between two peers: packets leave one after another at the link's bandwidth and arrive in order."""

    def __init__(self, links: SimLinks, to: int) -> None:
        self._links = links
        self._to = to
        self._free_at_ns = 0
        self._connected = False
        self.queued_bytes = 0

    @property
    def connected(self) -> bool:
        network = self._links.network
        return self._to in network.listeners and (self._links.id, self._to) not in network.cut

    def send(self, packet: Packet) -> None:
        links, costs, size = self._links, self._links.network.costs, packet.size
        loop, env = links.loop, links.loop.env
        loop.charge(costs.send.cost_ns(1, size))
        background_ns = costs.background.cost_ns(1, size)
        ready_ns = loop.free_at_ns
        if background_ns:
            loop.charge_background(background_ns)
        leaves_ns = max(ready_ns, self._free_at_ns) + int(size * costs.byte_ns)
        self._free_at_ns = leaves_ns
        self.queued_bytes += size
        links.count.sent(size)
        arrival = env.timeout(leaves_ns + int(costs.delay_us * 1000) - env.now, packet)
        assert arrival.callbacks is not None
        arrival.callbacks.append(self._arrive)

    def _arrive(self, event: Any) -> None:
        packet: Packet = event.value
        self.queued_bytes -= packet.size
        links = self._links
        network = links.network
        receiver = network.listeners.get(self._to)
        costs = network.costs
        if (links.id, self._to) in network.cut:
            return
        if receiver is None or receiver.on_packet is None:
            if self._connected:  # nobody is there any more: its host says so
                self._connected = False
                answer = links.loop.env.timeout(int(costs.delay_us * 1000))
                assert answer.callbacks is not None
                answer.callbacks.append(lambda _: links.on_loss(self._to))
            return
        self._connected = True
        background_ns = costs.background.cost_ns(1, packet.size)
        if background_ns:
            receiver.loop.charge_background(background_ns)
        receiver.take(packet)
