"""Links between peers of one process: packets by reference, through the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from rafttoy.ports import Packet

__all__ = ["MemoryLinks", "MemoryNetwork"]


class MemoryNetwork:
    def __init__(self) -> None:
        self.listeners: dict[int, Callable[[Packet], None]] = {}


class MemoryLinks:
    def __init__(self, network: MemoryNetwork, id: int) -> None:
        self._network = network
        self._id = id

    async def listen(self, on_packet: Callable[[Packet], None], on_loss: Callable[[int], None]) -> None:
        self._network.listeners[self._id] = on_packet

    def stream(self, to: int) -> MemoryStream:
        return MemoryStream(self._network, to)

    def counters(self) -> dict[str, int]:
        return {}

    async def close(self) -> None:
        self._network.listeners.pop(self._id, None)


class MemoryStream:
    __slots__ = ("_network", "_to")
    queued_bytes = 0

    def __init__(self, network: MemoryNetwork, to: int) -> None:
        self._network = network
        self._to = to

    @property
    def connected(self) -> bool:
        return self._to in self._network.listeners

    def send(self, packet: Packet) -> None:
        asyncio.get_running_loop().call_soon(self._deliver, packet)

    def _deliver(self, packet: Packet) -> None:
        listener = self._network.listeners.get(self._to)
        if listener is not None:
            listener(packet)
