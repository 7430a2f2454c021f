"""A simulated host with a group on it: builds the ports of each peer, runs one cell, returns what its leader measured."""

from __future__ import annotations

from collections.abc import Callable

import simpy

from rafttoy.cell import Cell, Plan
from rafttoy.errors import ConfigError
from rafttoy.member import Member
from rafttoy.peer import RaftOptions
from rafttoy.ports import core_of
from rafttoy.proposal import KEY_BYTES
from rafttoy.randomness import SeededRandomness
from rafttoy.run import Measurement, run_cell
from rafttoy.sim.disk import SimDisk
from rafttoy.sim.files import SimFiles
from rafttoy.sim.kv import SimKvStores
from rafttoy.sim.links import SimLinks, SimNetwork
from rafttoy.sim.model import Model
from rafttoy.sim.runtime import Loop, Pace, SimClock, SimCpu, SimHost, SimTasks, Stops
from rafttoy.sim.store import SimStore
from rafttoy.wire import Epoch

__all__ = ["SimPorts", "SimWorld", "run_sim"]


class SimPorts:
    """The world of one simulated peer. `store` is what its disk holds, from an earlier incarnation perhaps; `sync` as in a Plan."""

    def __init__(self, world: SimWorld, id: int, *, sync: str = "fdatasync", store: SimStore | None = None) -> None:
        host, disk = world.machine(id)
        loop = world.shared_loop or Loop(host, world.lock_ns, world.core(id))
        self.loop = loop
        self.clock = SimClock(loop)
        self.tasks = SimTasks(loop)
        self.random = SeededRandomness(world.seed, id)
        turn_ns = int(world.network.costs.wake_us * 1000)
        self.cpu = SimCpu(loop, world.model, self.random.stream("stages"), {"receive": turn_ns})
        root = f"peer-{id}"
        self.files = SimFiles(loop, disk, store, sync, root)
        self.kv = SimKvStores(loop, disk, world.model.software.kv, self.cpu, self.files.store, None, sync, root)
        self.links = SimLinks(world.network, id, loop)


class SimWorld:
    """One host with one disk, or one for each peer, and one network; `seed` fixes everything that is drawn."""

    def __init__(self, model: Model, transport: str, seed: int) -> None:
        costs = model.hardware.links.get(transport)
        if costs is None:
            known = ", ".join(sorted(model.hardware.links))
            raise ConfigError(f"model {model.meta.name}: no section hardware.links.{transport} (it has {known})")
        self.model = model
        self.seed = seed
        self.env = simpy.Environment(initial_time=0)
        self._machines: dict[int, tuple[SimHost, SimDisk]] = {}
        self._apart = model.hardware.hosts == "each" and transport != "mem"
        self.host, self.disk = self.machine(0)
        self.network = SimNetwork(costs, in_turn=model.software.reads_in_turn, deferred=transport != "tcp")
        self.lock_ns = int(model.software.lock_us * 1000)
        self.shared_loop = Loop(self.host, self.lock_ns) if transport == "mem" else None  # that transport has all peers in one process
        self.members: dict[int, Member] = {}

    def core(self, id: int) -> int:
        """The core that the loop of a peer keeps to; -1: none."""
        return core_of(id, self.model.hardware.cores) if self.model.software.placed and not self._apart else -1

    def machine(self, id: int) -> tuple[SimHost, SimDisk]:
        """(host, disk) of a peer; those of 0 are everyone's where peers share one."""
        number = id if self._apart else 0
        if number not in self._machines:
            hardware, random = self.model.hardware, SeededRandomness(self.seed, number)
            stopping = hardware.interruptions
            stops = Stops(stopping, hardware.cores, random.stream("interruptions")) if stopping is not None else None
            pace = Pace(hardware.pace, random.stream("pace")) if hardware.pace else None
            host = SimHost(self.env, hardware.cores, stops, pace)
            self._machines[number] = (host, SimDisk(self.env, host, hardware.disk, random.stream("disk")))
        return self._machines[number]

    def add_member(
        self,
        id: int,
        nodes: int,
        cell: Cell,
        plan: Plan,
        log: Callable[[str], None] = lambda line: None,
        store: SimStore | None = None,
        options: RaftOptions | None = None,
    ) -> Member:
        options = options or RaftOptions(commit_broadcast=self.model.software.commit_broadcast)
        ports = SimPorts(self, id, sync=plan.sync, store=store)
        member = Member(ports, id, nodes, cell=cell, plan=plan, options=options, log=log)
        self.members[id] = member
        return member

    def start(self, cell: Cell, plan: Plan) -> list[Member]:
        """All members of the cell, those that were added and new ones, begin to serve."""
        members = []
        for id in range(1, cell.nodes + 1):
            member = self.members.get(id) or self.add_member(id, cell.nodes, cell, plan)
            member.ports.tasks.spawn(_live(member), f"member {id}")
            members.append(member)
        return members

    def run(self, cell: Cell, plan: Plan, epoch: Epoch, *, content: bool = False) -> Measurement:
        """Runs `cell` with member 1 as its leader. With `content`, real bytes travel and are stored."""
        self.start(cell, plan)
        outcome: list[Measurement | BaseException] = []

        async def main() -> None:
            try:
                outcome.append(await run_cell(self.members[1], cell, plan, epoch, content=content))
            except Exception as error:  # noqa: BLE001  # SimPy rebuilds what it carries
                outcome.append(error)

        self.env.run(until=self.env.process(main()))  # type: ignore[arg-type]  # SimPy drives any object with send and throw
        if isinstance(outcome[0], BaseException):
            raise outcome[0]
        return outcome[0]


async def _live(member: Member) -> None:
    """As a process of its own: when it fails, nothing of it goes on, and nobody listens there any more."""
    try:
        await member.find_epoch()
        await member.serve()
    except Exception:
        member.ports.tasks.cancel_all()
        await member.ports.links.close()
        raise


def run_sim(cell: Cell, plan: Plan, model: Model) -> Measurement:
    """Predicts one cell. Same model, cell and plan: same result. A run of so many seconds is what a real one would be, with the flushes
    that fall into it; one of so many proposals says what holds in the long run."""
    own = model.on(cell.group_name())
    return SimWorld(own.steady(KEY_BYTES + cell.bytes) if plan.proposals else own, cell.transport, plan.seed).run(cell, plan, Epoch(1, 1))
