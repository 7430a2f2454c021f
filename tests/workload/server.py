"""A simulated world with a system to load that does as it is told, in place of a Raft group."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import numpy as np
import simpy

from rafttoy.randomness import SeededRandomness
from rafttoy.sim.runtime import Loop, SimClock, SimHost, SimTasks

__all__ = ["MS", "US", "Server", "World"]

US = 1000
MS = 1_000_000


class World:
    """Ports of one simulated peer, as far as a load needs them. `failures` is empty at the end of every good test."""

    def __init__(self, seed: int = 1) -> None:
        self.loop = Loop(SimHost(simpy.Environment(initial_time=0), cores=2))
        self.clock = SimClock(self.loop)
        self.tasks = SimTasks(self.loop)
        self.ports: Any = SimpleNamespace(clock=self.clock, tasks=self.tasks, random=SeededRandomness(seed, 1))

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self.tasks.spawn(coroutine, "test")

    def run(self, until_ns: int) -> None:
        """Raises whatever a task raised."""
        self.loop.env.run(until=until_ns)


class Server:
    """Serves what waits in rounds: up to `most` proposals each, the oldest first, which takes `service(round)` ns.

    `loses(round)`: the round's proposals are told as failed. `in_flight` is what was proposed and not yet told."""

    def __init__(
        self,
        world: World,
        service: Callable[[int], int],
        most: int = 1 << 30,
        loses: Callable[[int], bool] = lambda round: False,
    ) -> None:
        self.in_flight = self.most_in_flight = self.proposed = self.rounds = 0
        self.calls: list[tuple[int, int, Any]] = []
        """(when, how many, token) of each proposal."""
        self._world = world
        self._service = service
        self._most = most
        self._loses = loses
        self._waiting: deque[list[Any]] = deque()  # [client, token, skip, left]
        self._idle: Any = None
        world.spawn(self._serve())

    def propose(self, client: Any, token: Any, payloads: Any) -> None:
        self.calls.append((self._world.clock.now_ns(), payloads.count, token))
        self.proposed += payloads.count
        self.in_flight += payloads.count
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        self._waiting.append([client, token, 0, payloads.count])
        if self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    async def _serve(self) -> None:
        clock = self._world.clock
        while True:
            await clock.sleep_ns(1)  # whoever was told just now proposes again before the next round begins
            if not self._waiting:
                self._idle = self._world.tasks.future()
                await self._idle
                continue
            round = self._take()
            await clock.sleep_ns(self._service(self.rounds))
            loses = self._loses(self.rounds)
            self.rounds += 1
            clients = []
            for client, token, skip, count in round:
                self.in_flight -= count
                (client.failed if loses else client.acknowledged)(token, skip, count)
                if not loses and client not in clients:
                    clients.append(client)
            for client in clients:
                client.turn()

    def _take(self) -> list[tuple[Any, Any, int, int]]:
        taken, room = [], self._most
        while room and self._waiting:
            head = self._waiting[0]
            client, token, skip, left = head
            count = min(left, room)
            taken.append((client, token, skip, count))
            room -= count
            if count == left:
                self._waiting.popleft()
            else:
                head[2:] = [skip + count, left - count]
        return taken


def lognormal_service(seed: int) -> Callable[[int], int]:
    """A service time for each round, the same for everyone who asks with the same seed."""
    times = (np.random.default_rng(seed).lognormal(13.0, 0.6, 1 << 16)).astype(np.int64).tolist()
    return lambda round: int(times[round % len(times)])
