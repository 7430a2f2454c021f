"""The contract of links, for each transport of both worlds; and what only real sockets, or only simulated ones, do."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import simpy
import uvloop

from rafttoy.errors import RunError
from rafttoy.ports import Clock, Links, Packet
from rafttoy.real.cluster import free_addresses
from rafttoy.real.grpc_links import GrpcLinks
from rafttoy.real.memory import MemoryLinks, MemoryNetwork
from rafttoy.real.runtime import RealClock
from rafttoy.real.tcp import TcpLinks, split_address
from rafttoy.sim.links import SimLinks, SimNetwork
from rafttoy.sim.model import Linear, Link
from rafttoy.sim.runtime import Charge, Loop, SimClock, SimHost
from rafttoy.wire import MESSAGE_LIMIT_BYTES
from tests.conformance.links import Network, Run, Scenario, check_links, connect, station, until
from tests.conformance.test_clock_tasks import drive


class RealNetwork:
    """Three addresses on loopback."""

    loses = True

    def __init__(self, kind: Callable[..., Links]) -> None:
        self.clock: Clock = RealClock()
        self.addresses = free_addresses(3)
        self.log: list[str] = []
        self.made: list[Links] = []
        self._kind = kind

    def links(self, id: int) -> Links:
        self.made.append(self._kind(id, self.addresses, self.log.append))
        return self.made[-1]


class OneProcess:
    loses = False

    def __init__(self) -> None:
        self.clock: Clock = RealClock()
        self.made: list[Links] = []
        self._network = MemoryNetwork()

    def links(self, id: int) -> Links:
        return MemoryLinks(self._network, id)


class Simulated:
    loses = True

    def __init__(self, loop: Loop, costs: Link) -> None:
        self.clock: Clock = SimClock(loop)
        self.network = SimNetwork(costs)
        self._host = loop.host

    def links(self, id: int) -> Links:
        return SimLinks(self.network, id, Loop(self._host))


def run_real(make: Callable[[], RealNetwork | OneProcess], start: Any = uvloop.run) -> Run:
    def run(scenario: Scenario) -> None:
        async def main() -> None:
            before, network = asyncio.all_tasks(), make()
            try:
                async with asyncio.timeout(200):
                    await scenario(network)
                    while asyncio.all_tasks() - before:  # noqa: ASYNC110  # closed links leave no task behind
                        await asyncio.sleep(0.001)
            except BaseException:
                for links in network.made:  # uvloop cannot be closed while something listens
                    await links.close()
                raise

        start(main())

    return run


COSTS = Link(delay_us=50.0, byte_ns=0.5, send=Linear(fixed_us=5.0), receive=Linear(fixed_us=5.0), background=Linear(fixed_us=3.0))


def run_in_sim(scenario: Scenario) -> None:
    loop = Loop(SimHost(simpy.Environment(initial_time=0), cores=2))
    drive(loop, scenario(Simulated(loop, COSTS)))  # type: ignore[arg-type]


TRANSPORTS = {
    "tcp": run_real(lambda: RealNetwork(TcpLinks)),
    "tcp-asyncio": run_real(lambda: RealNetwork(TcpLinks), asyncio.run),
    "grpc": run_real(lambda: RealNetwork(GrpcLinks)),
    "grpc-asyncio": run_real(lambda: RealNetwork(GrpcLinks), asyncio.run),
    "mem": run_real(OneProcess),
    "sim": run_in_sim,
}
real = pytest.mark.parametrize("kind", [TcpLinks, GrpcLinks], ids=["tcp", "grpc"])


@pytest.mark.parametrize("run", TRANSPORTS.values(), ids=TRANSPORTS.keys())
def test_links(run: Run) -> None:
    check_links(run)


# --- real sockets ---


@real
def test_an_address_that_is_taken_is_named(kind: Any) -> None:
    async def scenario(network: Network) -> None:
        first = await station(network, 1)
        second = network.links(1)
        address = network.addresses[0]  # type: ignore[attr-defined]
        with pytest.raises(RunError, match=f"peer 1 cannot listen on {address}: address already in use"):
            await second.listen(lambda packet: None, lambda peer: None)
        await second.close()
        other = await station(network, 2)
        await connect(other, first)  # the first one is none the worse
        await first.links.close()
        await other.links.close()

    run_real(lambda: RealNetwork(kind))(scenario)


@real
def test_an_address_of_another_host_is_named(kind: Any) -> None:
    async def main() -> None:
        links = kind(1, ("192.0.2.1:7001",), lambda line: None)  # TEST-NET-1: nobody's
        with pytest.raises(RunError, match=r"peer 1 cannot listen on 192\.0\.2\.1:7001"):
            await links.listen(lambda packet: None, lambda peer: None)
        await links.close()

    uvloop.run(main())


@real
def test_a_rejected_packet_drops_its_connection_and_no_other(kind: Any) -> None:
    """At once, whether or not more comes by it; the sender is told and connects again."""

    async def scenario(network: Network) -> None:
        sender, other, receiver = await station(network, 1), await station(network, 3), await station(network, 2)
        await connect(sender, receiver)
        await connect(other, receiver)

        def on_packet(packet: Packet) -> None:
            if packet.join() == b"garbage":  # a peer reads its mailbox later
                asyncio.get_running_loop().call_later(0.01, packet.reject, "this is garbage")

        receiver.on_packet = on_packet
        sender.send(2, b"garbage")
        await until(network.clock, "the loss", lambda: sender.losses)
        assert sender.losses == [2]
        assert other.losses == receiver.losses == []
        assert any("this is garbage" in line for line in network.log)  # type: ignore[attr-defined]
        await connect(sender, receiver)
        await connect(other, receiver)
        for s in (sender, other, receiver):
            await s.links.close()

    run_real(lambda: RealNetwork(kind))(scenario)


@real
@pytest.mark.parametrize(
    "garbage",
    [b"\x00" * 64, b"\xff" * 64, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xfe" * 100, b""],
    ids=["zeros", "ones", "http", "http2", "nothing"],
)
def test_strangers_do_no_harm(kind: Any, garbage: bytes) -> None:
    """Whatever stands on their connections, peers go on talking on theirs."""

    async def scenario(network: Network) -> None:
        sender, receiver = await station(network, 1), await station(network, 2)
        await connect(sender, receiver)
        receiver.on_packet = lambda packet: packet.reject("garbage") if packet.join().replace(b"sense", b"") else None
        address = split_address(network.addresses[1])  # type: ignore[attr-defined]
        strangers = [socket.create_connection(address) for _ in range(3)]
        for stranger in strangers:
            stranger.sendall(garbage)
        for _ in range(20):
            sender.send(2, b"sense")
            await network.clock.sleep_ns(2_000_000)
        await until(network.clock, "all of it", lambda: receiver.received().count(b"sense") == 20)
        assert sender.losses == receiver.losses == []
        for stranger in strangers:
            stranger.close()
        for s in (sender, receiver):
            await s.links.close()

    run_real(lambda: RealNetwork(kind))(scenario)


def test_a_tcp_frame_that_is_too_long_drops_the_connection() -> None:
    async def scenario(network: Network) -> None:
        receiver = await station(network, 2)
        reader, writer = await asyncio.open_connection(*split_address(network.addresses[1]))  # type: ignore[attr-defined]
        writer.write(struct.pack("<I", 5) + b"frame" + struct.pack("<I", MESSAGE_LIMIT_BYTES * 2) + b"and so on")
        assert await reader.read() == b""  # closed by the other side
        assert receiver.packets == [b"frame"]
        writer.close()
        await receiver.links.close()

    run_real(lambda: RealNetwork(TcpLinks))(scenario)


@real
def test_a_peer_that_accepts_and_says_nothing_costs_nobody_anything(kind: Any) -> None:
    """A listener that is not one of us: streams to others are not held up by it."""

    async def scenario(network: Network) -> None:
        mute = socket.socket()
        mute.bind(split_address(network.addresses[2]))  # type: ignore[attr-defined]
        mute.listen(8)
        sender, receiver = await station(network, 1), await station(network, 2)
        for _ in range(50):
            sender.send(3, b"anyone there?")
        await connect(sender, receiver)
        await sender.links.close()
        await receiver.links.close()
        mute.close()

    run_real(lambda: RealNetwork(kind))(scenario)


# --- simulated ones ---


def simulate(scenario: Callable[[Simulated, Loop], Awaitable[None]], costs: Link, cores: int = 4) -> None:
    loop = Loop(SimHost(simpy.Environment(initial_time=0), cores))
    drive(loop, scenario(Simulated(loop, costs), loop))  # type: ignore[arg-type]


def test_a_simulated_packet_takes_its_delay_its_bytes_and_the_loops_work() -> None:
    costs = Link(delay_us=100.0, byte_ns=2.0, send=Linear(fixed_us=7.0, byte_ns=1.0), receive=Linear(fixed_us=4.0))
    arrivals: list[int] = []

    async def scenario(network: Simulated, loop: Loop) -> None:
        sender, receiver = await station(network, 1), await station(network, 2)
        receiver.on_packet = lambda packet: arrivals.append(network.clock.now_ns())
        for _ in range(2):
            sender.send(2, bytes(1000))
        await network.clock.sleep_ns(1_000_000)
        sender_loop, receiver_loop = sender.links.loop, receiver.links.loop  # type: ignore[attr-defined]
        assert sender_loop.busy_ns == 2 * (7000 + 1000)
        assert receiver_loop.busy_ns == 2 * 4000

    simulate(scenario, costs)
    first = 8000 + 2000 + 100_000
    assert arrivals == [first, first + 8000]  # the second leaves once the loop has sent it, behind the first


def test_a_simulated_wire_carries_one_packet_after_another() -> None:
    arrivals: list[int] = []

    async def scenario(network: Simulated, loop: Loop) -> None:
        sender, receiver = await station(network, 1), await station(network, 2)
        receiver.on_packet = lambda packet: arrivals.append(network.clock.now_ns())
        for _ in range(3):
            sender.send(2, bytes(1000))
        assert sender.links.stream(2).queued_bytes == 3000
        await network.clock.sleep_ns(1_000_000)
        assert sender.links.stream(2).queued_bytes == 0

    simulate(scenario, Link(delay_us=10.0, byte_ns=5.0))
    assert arrivals == [15_000, 20_000, 25_000]


def test_a_simulated_partition_loses_what_crosses_it_in_one_direction() -> None:
    async def scenario(network: Simulated, loop: Loop) -> None:
        a, b = await station(network, 1), await station(network, 2)
        network.network.cut.add((1, 2))
        a.send(2, b"lost")
        b.send(1, b"found")
        await network.clock.sleep_ns(1_000_000)
        network.network.cut.clear()
        a.send(2, b"found")
        await network.clock.sleep_ns(1_000_000)
        assert (a.packets, b.packets) == ([b"found"], [b"found"])

    simulate(scenario, COSTS)


@pytest.mark.parametrize(
    ("in_turn", "expected"), [(True, ["first", "second", "packets", "packets"]), (False, ["packets", "packets", "first", "second"])]
)
def test_a_loop_that_reads_in_turn_has_packets_once_its_tasks_wait(in_turn: bool, expected: list[str]) -> None:
    """Two arrive while it works, and goes on without a pause."""
    env = simpy.Environment(initial_time=0)
    network = SimNetwork(Link(delay_us=50.0, byte_ns=0.0, receive=Linear(fixed_us=5.0)), in_turn=in_turn)
    loops = [Loop(SimHost(env, cores=1)) for _ in range(2)]
    sender, receiver = (SimLinks(network, id, loop) for id, loop in enumerate(loops, 1))
    seen: list[str] = []

    async def main() -> None:
        await receiver.listen(lambda packet: seen.append("packets"), lambda peer: None)
        for _ in range(2):
            sender.stream(2).send(Packet([b"x"], 1))
        for piece in ("first", "second"):
            loops[1].charge(100_000)
            await Charge(loops[1])
            seen.append(piece)
        await SimClock(loops[1]).sleep_ns(1_000_000)

    env.run(until=env.process(main()))  # type: ignore[arg-type]
    assert seen == expected
    assert receiver.counters()["packets_received"] == 2


def test_packets_that_wait_are_read_in_the_order_of_their_arrival() -> None:
    env = simpy.Environment(initial_time=0)
    network = SimNetwork(Link(delay_us=0.0, byte_ns=0.0, receive=Linear(fixed_us=5.0)), in_turn=True)
    loop = Loop(SimHost(env, cores=1))
    links = SimLinks(network, 1, loop)
    seen: list[bytes] = []

    async def main() -> None:
        await links.listen(lambda packet: seen.append(packet.join()), lambda peer: None)
        loop.charge(100_000)
        for i in range(3):
            links.take(Packet([b"%d" % i], 1))
            await SimClock(Loop(loop.host)).sleep_ns(30_000)
        await SimClock(loop).sleep_ns(0)  # busy until then, and with those three for 15 µs
        links.take(Packet([b"3"], 1))
        await SimClock(loop).sleep_ns(1_000_000)

    env.run(until=env.process(main()))  # type: ignore[arg-type]
    assert seen == [b"0", b"1", b"2", b"3"]
