"""What links between peers promise. `check_links` is run against every transport of both worlds."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import numpy as np

from rafttoy.ports import Buffer, Clock, Links, Packet

__all__ = ["Network", "Run", "Station", "check_links", "connect", "station", "until"]


class Network(Protocol):
    """Where peers 1, 2 and 3 of one group can be."""

    @property
    def clock(self) -> Clock: ...

    @property
    def loses(self) -> bool:
        """Whether a stream can be lost here (not where all peers live and die together)."""

    def links(self, id: int) -> Links:
        """Of a new incarnation of that peer."""


Scenario = Callable[[Network], Awaitable[None]]
Run = Callable[[Scenario], None]
"""Runs a scenario to its end on a new network, and raises what leaves it."""

_DEADLINE_NS = 120_000_000_000  # nothing here takes a second; a busy host may stall


def check_links(run: Run) -> None:
    for clause in _CLAUSES:
        try:
            run(clause)
        except BaseException as error:
            error.add_note(f"clause: {clause.__name__}")
            raise


class Station:
    """One peer's end: what it received, and whom it lost."""

    def __init__(self, network: Network, id: int) -> None:
        self.network = network
        self.id = id
        self.links = network.links(id)
        self.packets: list[bytes] = []
        self.losses: list[int] = []
        self.on_packet: Callable[[Packet], None] = lambda packet: None

    async def listen(self) -> None:
        await self.links.listen(self._received, self.losses.append)

    def _received(self, packet: Packet) -> None:
        data = packet.join()
        assert packet.size == len(data)
        self.packets.append(data)
        self.on_packet(packet)

    def received(self) -> bytes:
        return b"".join(self.packets)

    def send(self, to: int, *parts: Buffer) -> None:
        self.links.stream(to).send(Packet(parts, sum(map(len, parts))))


async def station(network: Network, id: int) -> Station:
    """A peer that listens."""
    made = Station(network, id)
    await made.listen()
    return made


async def until(clock: Clock, what: str, holds: Callable[[], object], step: Callable[[], object] = lambda: None) -> None:
    """Waits until `holds`, doing `step` each millisecond."""
    deadline_ns = clock.now_ns() + _DEADLINE_NS
    while not holds():
        assert clock.now_ns() < deadline_ns, f"not within {_DEADLINE_NS // 10**9} s: {what}"
        step()
        await clock.sleep_ns(1_000_000)


async def connect(sender: Station, receiver: Station) -> None:
    """Until what `sender` sends arrives; what was sent for that is forgotten."""
    clock, probe, last = sender.network.clock, b"probe;", b"last;"
    before = len(receiver.packets)
    await until(clock, "a first packet", lambda: len(receiver.packets) > before, lambda: sender.send(receiver.id, probe))
    sender.send(receiver.id, last)
    await until(clock, "the last probe", lambda: receiver.received().endswith(last))
    receiver.packets.clear()


def _random_bytes(seed: int, sizes: Sequence[int]) -> list[bytes]:
    rng = np.random.default_rng(seed)
    return [rng.bytes(size) for size in sizes]


async def _packets_of_any_size_arrive_in_order_and_unharmed(network: Network) -> None:
    sender, receiver = await station(network, 1), await station(network, 2)
    await connect(sender, receiver)
    sent = _random_bytes(1, [1, 2, 100, 4095, 4096, 4097, 65_535, 65_536, 262_144, 3, 262_145, 1 << 20, 0x500001, 7])
    for data in sent:
        sender.send(2, data)
    whole = b"".join(sent)
    await until(network.clock, "all of it", lambda: len(receiver.received()) >= len(whole))
    assert receiver.received() == whole
    await until(network.clock, "an empty queue", lambda: sender.links.stream(2).queued_bytes == 0)
    await sender.links.close()
    await receiver.links.close()


async def _packets_stay_whole(network: Network) -> None:
    """They may be joined, never cut."""
    sender, receiver = await station(network, 1), await station(network, 2)
    await connect(sender, receiver)
    sizes = np.random.default_rng(2).integers(1, 3000, 2000).tolist()
    sent = _random_bytes(3, sizes)
    for data in sent:
        sender.send(2, data)
    await until(network.clock, "all of it", lambda: len(receiver.received()) >= sum(sizes))
    assert receiver.received() == b"".join(sent)
    boundaries = set(np.cumsum(sizes).tolist())
    assert set(np.cumsum([len(packet) for packet in receiver.packets]).tolist()) <= boundaries
    await sender.links.close()
    await receiver.links.close()


async def _a_packet_may_be_of_several_parts(network: Network) -> None:
    sender, receiver = await station(network, 1), await station(network, 2)
    await connect(sender, receiver)
    expected = b""
    for size in (10, 3000, 100_000):
        content = _random_bytes(size, [size])[0]
        sender.send(2, b"head", bytearray(content), memoryview(b"<" + content + b">")[1:-1], b"", content)
        expected += b"head" + 3 * content
    await until(network.clock, "all of it", lambda: len(receiver.received()) >= len(expected))
    assert receiver.received() == expected
    await sender.links.close()
    await receiver.links.close()


async def _every_peer_reaches_every_other(network: Network) -> None:
    stations = [await station(network, id) for id in (1, 2, 3)]
    pairs = [(a, b) for a in stations for b in stations if a is not b]
    for a, b in pairs:
        await connect(a, b)
    for i in range(50):
        for a, b in pairs:
            a.send(b.id, b"%d>%d:%03d;" % (a.id, b.id, i))
    await until(network.clock, "all of it", lambda: all(len(s.received()) == 2 * 50 * 8 for s in stations))
    for s in stations:
        got = [part for part in s.received().split(b";") if part]
        for a, b in pairs:
            if b is s:
                prefix = b"%d>%d:" % (a.id, b.id)
                assert [part for part in got if part.startswith(prefix)] == [prefix + b"%03d" % i for i in range(50)]
    for s in stations:
        await s.links.close()


async def _what_is_sent_while_the_peer_is_unreachable_is_dropped(network: Network) -> None:
    sender = await station(network, 1)
    stream = sender.links.stream(2)
    for i in range(10):
        sender.send(2, b"lost %d;" % i)
        await network.clock.sleep_ns(2_000_000)
    assert not stream.connected
    await until(network.clock, "an empty queue", lambda: sender.links.stream(2).queued_bytes == 0)
    receiver = await station(network, 2)
    got: list[bytes] = []
    receiver.on_packet = lambda packet: got.append(packet.join())
    await connect(sender, receiver)
    assert stream.connected
    assert b"lost" not in b"".join(got)
    await sender.links.close()
    await receiver.links.close()


async def _streams_come_back_after_the_receiver_restarts(network: Network) -> None:
    sender, receiver = await station(network, 1), await station(network, 2)
    for _ in range(3):
        await connect(sender, receiver)
        sender.send(2, b"before")
        await until(network.clock, "the packet", lambda receiver=receiver: receiver.received() == b"before")  # type: ignore[misc]
        await receiver.links.close()
        count = len(receiver.packets)
        sender.send(2, b"to nobody")
        await network.clock.sleep_ns(5_000_000)
        assert len(receiver.packets) == count  # closed is closed
        receiver = await station(network, 2)
    await connect(sender, receiver)
    sender.send(2, b"after")
    await until(network.clock, "the packet", lambda: receiver.received() == b"after")
    await sender.links.close()
    await receiver.links.close()


async def _a_lost_stream_is_told_to_its_sender(network: Network) -> None:
    """Once for each loss, however much is sent into the void."""
    if not network.loses:
        return
    sender, receiver, bystander = await station(network, 1), await station(network, 2), await station(network, 3)
    await connect(sender, receiver)
    await connect(sender, bystander)
    for losses in (1, 2):
        await receiver.links.close()
        await until(
            network.clock,
            "the loss",
            lambda losses=losses: len(sender.losses) == losses,  # type: ignore[misc]
            lambda: sender.send(2, b"anyone there?"),
        )
        assert not sender.links.stream(2).connected
        for _ in range(20):
            sender.send(2, b"to nobody")
            await network.clock.sleep_ns(2_000_000)
        assert sender.losses == [2] * losses
        receiver = await station(network, 2)
        await connect(sender, receiver)
    sender.send(3, b"still here")
    await until(network.clock, "the packet", lambda: bystander.received() == b"still here")
    assert bystander.losses == []
    for s in (sender, receiver, bystander):
        await s.links.close()


async def _what_goes_and_what_comes_is_counted(network: Network) -> None:
    a, b = await station(network, 1), await station(network, 2)
    await connect(a, b)
    await connect(b, a)
    await network.clock.sleep_ns(20_000_000)
    before_a, before_b = a.links.counters(), b.links.counters()
    sizes = [10, 5000, 100_000, 1]
    for size in sizes:
        a.send(2, bytes(size))
        await until(network.clock, "the packet", lambda size=size: b.packets and len(b.packets[-1]) == size)  # type: ignore[misc]
    sent = {name: count - before_a[name] for name, count in a.links.counters().items()}
    received = {name: count - before_b[name] for name, count in b.links.counters().items()}
    assert sent == {"packets_sent": 4, "bytes_sent": sum(sizes), "packets_received": 0, "bytes_received": 0}
    assert received == {"packets_sent": 0, "bytes_sent": 0, "packets_received": 4, "bytes_received": sum(sizes)}
    await a.links.close()
    await b.links.close()


async def _to_close_oneself_is_no_loss(network: Network) -> None:
    a, b = await station(network, 1), await station(network, 2)
    await connect(a, b)
    await connect(b, a)
    await a.links.close()
    await network.clock.sleep_ns(20_000_000)
    assert a.losses == []
    count = len(a.packets)
    b.send(1, b"to nobody")
    await network.clock.sleep_ns(20_000_000)
    assert len(a.packets) == count
    await b.links.close()


_CLAUSES: tuple[Scenario, ...] = (
    _packets_of_any_size_arrive_in_order_and_unharmed,
    _packets_stay_whole,
    _a_packet_may_be_of_several_parts,
    _every_peer_reaches_every_other,
    _what_is_sent_while_the_peer_is_unreachable_is_dropped,
    _streams_come_back_after_the_receiver_restarts,
    _a_lost_stream_is_told_to_its_sender,
    _what_goes_and_what_comes_is_counted,
    _to_close_oneself_is_no_loss,
)
