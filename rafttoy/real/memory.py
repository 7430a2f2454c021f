"""Links between peers of one process: packets by reference, through the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from rafttoy.observe import LinkCounters
from rafttoy.ports import Packet

__all__ = ["MemoryLinks", "MemoryNetwork"]


class MemoryNetwork:
    def __init__(self) -> None:
        self.listeners: dict[int, Callable[[Packet], None]] = {}


class MemoryLinks:
    deferred = True

    def __init__(self, network: MemoryNetwork, id: int) -> None:
        self._network = network
        self._id = id
        self._count = LinkCounters()

    async def listen(self, on_packet: Callable[[Packet], None], on_loss: Callable[[int], None]) -> None:
        def received(packet: Packet) -> None:
            self._count.received(packet.size)
            on_packet(packet)

        self._network.listeners[self._id] = received

    def stream(self, to: int) -> MemoryStream:
        return MemoryStream(self._network, to, self._count)

    def counters(self) -> dict[str, int]:
        return self._count.as_dict()

    async def close(self) -> None:
        self._network.listeners.pop(self._id, None)


class MemoryStream:
    __slots__ = ("_count", "_network", "_to")
    queued_bytes = 0

    def __init__(self, network: MemoryNetwork, to: int, count: LinkCounters) -> None:
        self._network = network
        self._to = to
        self._count = count

    @property
    def connected(self) -> bool:
        return self._to in self._network.listeners

    def send(self, packet: Packet) -> None:
        self._count.sent(packet.size)
        asyncio.get_running_loop().call_soon(self._deliver, packet)

    def _deliver(self, packet: Packet) -> None:
        listener = self._network.listeners.get(self._to)
        if listener is not None:
            listener(packet)
