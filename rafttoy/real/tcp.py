"""Plain TCP: each peer connects to every other and sends on that connection; what it receives comes by the others'."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable

from rafttoy.errors import RunError
from rafttoy.observe import LinkCounters
from rafttoy.ports import Packet
from rafttoy.real.framing import LENGTH, FrameReader

__all__ = ["TcpLinks", "split_address"]

_RETRY_SECONDS = (0.02, 0.05, 0.1, 0.2, 0.5)
_HIGH_WATER_BYTES = 256 << 20  # beyond that the peer at the other end is stuck: drop, Raft repairs it


def split_address(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


class TcpLinks:
    """`addresses[id - 1]` is where peer `id` listens."""

    deferred = False

    def __init__(self, id: int, addresses: tuple[str, ...], log: Callable[[str], None]) -> None:
        self._id = id
        self._addresses = addresses
        self._log = log
        self._streams: dict[int, TcpStream] = {}
        self._server: asyncio.Server | None = None
        self._readers: dict[FrameReader, None] = {}
        self.count = LinkCounters()
        self._on_packet: Callable[[Packet], None] = lambda packet: None
        self._on_loss: Callable[[int], None] = lambda peer: None

    async def listen(self, on_packet: Callable[[Packet], None], on_loss: Callable[[int], None]) -> None:
        self._on_packet, self._on_loss = on_packet, on_loss
        address = self._addresses[self._id - 1]
        host, port = split_address(address)
        try:
            self._server = await asyncio.get_running_loop().create_server(self._accept, host, port)
        except OSError as error:
            number = error.errno or 0
            why = os.strerror(number).lower() if number > 0 else error.strerror  # a name that is not found: below 0
            raise RunError(f"peer {self._id} cannot listen on {address}: {why}") from None

    def _accept(self) -> FrameReader:
        reader = FrameReader(self._frame, self._garbage, lambda closed: self._readers.pop(closed, None) and None)
        self._readers[reader] = None
        return reader

    def _frame(self, frame: bytes, reader: FrameReader) -> None:
        size, count = len(frame), self.count
        count.packets_received += 1
        count.bytes_received += size
        self._on_packet(Packet((frame,), size, None, reader.drop))

    def _garbage(self, reason: str) -> None:
        self._log(f"dropped a connection: {reason}")

    def stream(self, to: int) -> TcpStream:
        if to not in self._streams:
            self._streams[to] = TcpStream(self._addresses[to - 1], self.count, lambda: self._on_loss(to))
        return self._streams[to]

    def counters(self) -> dict[str, int]:
        return self.count.as_dict()

    async def close(self) -> None:
        for stream in self._streams.values():
            await stream.close()
        if self._server is not None:
            self._server.close()
        for reader in list(self._readers):
            if reader.transport is not None:
                reader.transport.close()
        if self._server is not None:
            await self._server.wait_closed()


class _Outgoing(asyncio.Protocol):
    def __init__(self, on_close: Callable[[], None]) -> None:
        self._on_close = on_close

    def connection_lost(self, exc: Exception | None) -> None:
        self._on_close()


class TcpStream:
    def __init__(self, address: str, count: LinkCounters, on_loss: Callable[[], None]) -> None:
        self._address = address
        self._count = count
        self._on_loss = on_loss
        self._transport: asyncio.WriteTransport | None = None
        self._closed = False
        self._task = asyncio.get_running_loop().create_task(self._connect(), name=f"connect {address}")

    @property
    def connected(self) -> bool:
        return self._transport is not None

    @property
    def queued_bytes(self) -> int:
        transport = self._transport
        return 0 if transport is None or transport.is_closing() else transport.get_write_buffer_size()

    def send(self, packet: Packet) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():  # uvloop raises on a write to a connection whose loss is yet to be told
            return
        if transport.get_write_buffer_size() > _HIGH_WATER_BYTES:
            return
        size, count = packet.size, self._count
        count.packets_sent += 1
        count.bytes_sent += size
        if size < 4096:
            transport.write(b"".join((LENGTH.pack(size), *packet.parts)))  # type: ignore[arg-type]
        else:
            transport.writelines([LENGTH.pack(size), *packet.parts])  # type: ignore[list-item]

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        host, port = split_address(self._address)
        attempt = 0
        while not self._closed:
            lost = loop.create_future()
            try:
                transport, _ = await loop.create_connection(lambda lost=lost: _Outgoing(lambda: _settle(lost)), host, port)  # type: ignore[misc]
            except OSError:
                await asyncio.sleep(_RETRY_SECONDS[min(attempt, len(_RETRY_SECONDS) - 1)])
                attempt += 1
                continue
            attempt = 0
            transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._transport = transport
            await lost
            self._transport = None
            if not self._closed:
                self._on_loss()

    async def close(self) -> None:
        self._closed = True
        if self._transport is not None:
            self._transport.close()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
