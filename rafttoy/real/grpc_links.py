"""gRPC: each peer opens one `RaftMessage` stream to every other and sends on it, as the Go original does.

Bytes are handed to gRPC as they are (no generated code). Packets that come while a write is in flight leave together in the next
one: concatenated RaftMsgs are RaftMsgs.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from typing import Any

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # read on import; a peer that goes away is news for Raft, not for the terminal

import grpc

from rafttoy.errors import RunError
from rafttoy.observe import LinkCounters
from rafttoy.ports import Packet
from rafttoy.wire import MESSAGE_LIMIT_BYTES, SERVICE

__all__ = ["GrpcLinks"]

_OPTIONS = [
    ("grpc.max_receive_message_length", MESSAGE_LIMIT_BYTES + (1 << 20)),
    ("grpc.max_send_message_length", -1),
    ("grpc.so_reuseport", 0),  # a second peer on the same address is an error, not a share
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),  # peers of a run start together: by default the first retry comes after a second
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
]
_JOIN_BYTES = 2 << 20  # a Go receiver takes 4 MB at most unless told otherwise
_HIGH_WATER_BYTES = 256 << 20
_RETRY_SECONDS = (0.02, 0.05, 0.1, 0.2, 0.5)


class GrpcLinks:
    """`addresses[id - 1]` is where peer `id` listens."""

    deferred = True

    def __init__(self, id: int, addresses: tuple[str, ...], log: Callable[[str], None]) -> None:
        self._id = id
        self._addresses = addresses
        self._log = log
        self._server: Any = None
        self._streams: dict[int, GrpcStream] = {}
        self.count = LinkCounters()
        self._on_packet: Callable[[Packet], None] = lambda packet: None
        self._on_loss: Callable[[int], None] = lambda peer: None

    async def listen(self, on_packet: Callable[[Packet], None], on_loss: Callable[[int], None]) -> None:
        self._on_packet, self._on_loss = on_packet, on_loss
        address = self._addresses[self._id - 1]
        service, method = SERVICE[1:].split("/")
        handler = grpc.stream_stream_rpc_method_handler(self._serve)
        self._server = grpc.aio.server(options=_OPTIONS)
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
        try:
            port = self._server.add_insecure_port(address)
        except RuntimeError:
            port = 0
        if not port:
            raise RunError(f"peer {self._id} cannot listen on {address}: address already in use, or not of this host")
        await self._server.start()

    async def _serve(self, messages: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        serving = asyncio.current_task()
        assert serving is not None
        garbage: list[str] = []

        def reject(reason: str) -> None:
            if not garbage:  # what was read before the connection ends may be garbage, too
                self._log(f"dropped a connection from {context.peer()}: {reason}")
                serving.cancel()
            garbage.append(reason)

        on_packet = self._on_packet
        try:
            async for data in messages:
                self.count.received(len(data))
                on_packet(Packet((data,), len(data), reject=reject))
        except asyncio.CancelledError:
            if not garbage:
                raise
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, garbage[0])
        return
        yield b""  # an async generator that never yields: peers answer on streams of their own

    def stream(self, to: int) -> GrpcStream:
        if to not in self._streams:
            self._streams[to] = GrpcStream(self._addresses[to - 1], self.count, lambda: self._on_loss(to))
        return self._streams[to]

    def counters(self) -> dict[str, int]:
        return self.count.as_dict()

    async def close(self) -> None:
        for stream in self._streams.values():
            await stream.close()
        if self._server is not None:
            await self._server.stop(None)


class GrpcStream:
    def __init__(self, address: str, count: LinkCounters, on_loss: Callable[[], None]) -> None:
        self._address = address
        self._count = count
        self._on_loss = on_loss
        self._outbox: list[Packet] = []
        self._wake: asyncio.Future[None] | None = None
        self.connected = False
        self._closed = False
        self.queued_bytes = 0
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"stream {address}")

    def send(self, packet: Packet) -> None:
        if not self.connected or self.queued_bytes > _HIGH_WATER_BYTES:
            return
        self._outbox.append(packet)
        self.queued_bytes += packet.size
        self._poke()

    async def _run(self) -> None:
        attempt = 0
        while not self._closed:
            channel = grpc.aio.insecure_channel(self._address, options=_OPTIONS)
            try:
                await asyncio.wait_for(channel.channel_ready(), 1.0)
                call = channel.stream_stream(SERVICE)()
                await call.wait_for_connection()
                attempt, self.connected = 0, True
                await self._pump(call)
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError, TimeoutError, grpc.aio.UsageError):
                pass
            finally:
                lost, self.connected = self.connected, False
                self._outbox.clear()
                self.queued_bytes = 0
                await channel.close()
            if lost and not self._closed:
                self._on_loss()
            await asyncio.sleep(_RETRY_SECONDS[min(attempt, len(_RETRY_SECONDS) - 1)])
            attempt += 1

    async def _pump(self, call: Any) -> None:
        """Writes until the stream is lost. A loss while nothing is sent is noticed by the pending read of the (empty) answer."""
        loop = asyncio.get_running_loop()
        ended = asyncio.ensure_future(call.read())
        ended.add_done_callback(lambda _: self._poke())
        try:
            while not ended.done():
                if not self._outbox:
                    self._wake = loop.create_future()
                    await self._wake
                    continue
                await call.write(self._take())
        finally:
            ended.cancel()
            await asyncio.gather(ended, return_exceptions=True)

    def _poke(self) -> None:
        wake, self._wake = self._wake, None
        if wake is not None and not wake.done():
            wake.set_result(None)

    def _take(self) -> bytes:
        outbox = self._outbox
        if len(outbox) == 1:
            packets, self._outbox = outbox, []
        else:
            size = count = 0
            for packet in outbox:
                if count and size + packet.size > _JOIN_BYTES:
                    break
                size += packet.size
                count += 1
            packets, self._outbox = outbox[:count], outbox[count:]
        size = sum(packet.size for packet in packets)
        self.queued_bytes -= size
        self._count.sent(size)
        return b"".join([part for packet in packets for part in packet.parts])  # type: ignore[misc]

    async def close(self) -> None:
        self._closed = True
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
