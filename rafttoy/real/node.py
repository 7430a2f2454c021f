"""One peer of a real group, in this process: its ports, its life, and the process that a benchmark starts for it.

A benchmark starts `python -m rafttoy.real.node` with a `Job` as one JSON line on standard input, and keeps that pipe open: its end
ends the process, so that no peer outlives whoever started it. Events come back as JSON lines on standard output.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Collection, Coroutine
from pathlib import Path
from typing import Any

import msgspec

from rafttoy.cell import Cell, Plan
from rafttoy.errors import CheckFailed, ConfigError, PeerError, RafttoyError, RunError, StorageError
from rafttoy.member import Member
from rafttoy.ports import Links
from rafttoy.proposal import AcknowledgedRun
from rafttoy.randomness import SeededRandomness
from rafttoy.real.files import RealFiles
from rafttoy.real.kv import RealKvStores
from rafttoy.real.memory import MemoryLinks, MemoryNetwork
from rafttoy.real.profile import make_profiler
from rafttoy.real.runtime import BusyPoll, RealClock, RealCpu, RealTasks
from rafttoy.run import Measurement, run_cell
from rafttoy.storage import is_durable
from rafttoy.wire import Epoch

__all__ = ["LINKS", "Event", "Failed", "Job", "Lead", "Listening", "Log", "Measured", "Moved", "RealPorts", "run_node", "start_loop"]


class Lead(msgspec.Struct, frozen=True):
    """One run to lead, as iteration `iteration` of this process's epochs."""

    cell: Cell
    plan: Plan
    iteration: int


class Job(msgspec.Struct, frozen=True):
    """`addresses` of nodes 1…N. With `lead` this node leads those runs, one after another, and ends.

    harness   measure how fast the client is by itself, once a load
    profile   a file: what the leader does in the measured time of its runs
    fresh     forget what the data directory holds
    resume    the first run goes on with the epoch that the data directory holds, if any
    ack_log   a file: acknowledged runs are appended to it as they happen, and those that it held are verified
    loop_cpu  the processor that the event loop is pinned to, if not -1; disk threads are not
    """

    id: int
    addresses: tuple[str, ...]
    data_dir: str
    cell: Cell
    plan: Plan
    process_nanos: int = 0
    lead: tuple[Lead, ...] | None = None
    samples: bool = False
    fresh: bool = False
    resume: bool = False
    ack_log: str = ""
    harness: bool = False
    profile: str = ""
    loop_cpu: int = -1


class Listening(msgspec.Struct, frozen=True, tag="listening"):
    pass


class Log(msgspec.Struct, frozen=True, tag="log"):
    line: str


class Moved(msgspec.Struct, frozen=True, tag="progress"):
    share: float


class Measured(msgspec.Struct, frozen=True, tag="measured"):
    measurement: Measurement


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    kind: str
    message: str

    def error(self) -> RafttoyError:
        kinds = {kind.__name__: kind for kind in (CheckFailed, ConfigError, PeerError, RunError)}
        return kinds.get(self.kind, StorageError if self.kind.endswith("StorageError") else RunError)(self.message)


Event = Listening | Log | Moved | Measured | Failed


def _grpc(id: int, addresses: tuple[str, ...], log: Callable[[str], None]) -> Links:
    from rafttoy.real.grpc_links import GrpcLinks  # noqa: PLC0415  # slow to import, and not needed by other transports

    return GrpcLinks(id, addresses, log)


def _tcp(id: int, addresses: tuple[str, ...], log: Callable[[str], None]) -> Links:
    from rafttoy.real.tcp import TcpLinks  # noqa: PLC0415

    return TcpLinks(id, addresses, log)


LINKS: dict[str, Callable[[int, tuple[str, ...], Callable[[str], None]], Links]] = {"grpc": _grpc, "tcp": _tcp}


class RealPorts:
    """The world of one real peer. Made on the loop that it will run on, which `poll` keeps awake, if given."""

    def __init__(
        self,
        id: int,
        root: Path,
        links: Links,
        plan: Plan,
        *,
        poll: BusyPoll | None = None,
        cpus: Collection[int] = (),
        files: Callable[..., Any] = RealFiles,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.clock = RealClock()
        self.tasks = RealTasks(loop, poll, cpus)
        self.cpu = RealCpu(poll)
        self.files = files(root, self.tasks, plan.sync)
        self.kv = RealKvStores(root, self.tasks, self.cpu)
        self.links = links
        self.random = SeededRandomness(plan.seed, id)


def start_loop(main: Coroutine[Any, Any, None]) -> None:
    """Runs `main` on uvloop where it is installed, on asyncio elsewhere."""
    try:
        import uvloop  # noqa: PLC0415
    except ImportError:
        asyncio.run(main)
    else:
        uvloop.run(main)


async def run_node(job: Job, emit: Callable[[Event], None], stop: asyncio.Event) -> dict[str, dict[str, float]]:
    """Serves until `stop`, or leads the job's runs. Returns the metrics of its last run; raises what ended the member early."""
    by_reference = job.cell.transport == "mem"
    network = MemoryNetwork()
    polls = job.plan.busy_poll == "all" or (job.plan.busy_poll == "leader" and job.lead is not None)
    poll = BusyPoll(asyncio.get_running_loop(), yields=is_durable(job.cell.storage, job.cell.wal)) if polls else None
    cpus: Collection[int] = ()
    if job.loop_cpu >= 0:
        cpus = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {job.loop_cpu})  # of this thread alone
    members = []
    for id in range(1, job.cell.nodes + 1) if by_reference else (job.id,):
        links: Links = (
            MemoryLinks(network, id) if by_reference else LINKS[job.cell.transport](id, job.addresses, lambda line: emit(Log(line)))
        )
        root = Path(job.data_dir) / f"peer-{id}" if by_reference else Path(job.data_dir)
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"data directory {root}: {error.strerror}") from None
        ports = RealPorts(id, root, links, job.plan, poll=poll, cpus=cpus)
        nodes = job.cell.nodes if by_reference else len(job.addresses)
        members.append(
            Member(
                ports,
                id,
                nodes,
                cell=job.cell,
                plan=job.plan,
                by_reference=by_reference,
                fresh=job.fresh,
                log=lambda line: emit(Log(line)),
            )
        )
    loop = asyncio.get_running_loop()
    failures: list[BaseException] = []
    failed = asyncio.Event()

    def fail(error: BaseException) -> None:
        failures.append(error)
        failed.set()

    tasks = []
    for member in members:
        await member.find_epoch()
        member.on_failure(fail)
        tasks.append(loop.create_task(member.serve(), name=f"member {member.id}"))
    await asyncio.sleep(0)
    emit(Listening())
    collector = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    leading = loop.create_task(_lead(members[0], job, emit, stop) if job.lead is not None else _wait(stop), name="lead")
    failing = loop.create_task(_wait(failed), name="failing")
    try:
        await asyncio.wait([leading, failing, *tasks], return_when=asyncio.FIRST_COMPLETED)
        if failures:
            raise failures[0]
        for task in (leading, *tasks):
            if task.done():
                task.result()
    finally:
        gc.set_threshold(*collector)
        leading.cancel()
        failing.cancel()
        for member in members:
            member.stop()
        await asyncio.wait(tasks, timeout=2.0)
        for member, task in zip(members, tasks, strict=True):
            task.cancel()
            member.ports.tasks.cancel_all()
        await asyncio.gather(leading, *tasks, return_exceptions=True)
    return members[0].metrics.to_json()


async def _wait(stop: asyncio.Event) -> None:
    await stop.wait()


async def _lead(member: Member, job: Job, emit: Callable[[Event], None], stop: asyncio.Event) -> None:
    shown = 0.0

    def progress(share: float) -> None:
        nonlocal shown
        if share >= shown + 0.05 or share < shown:
            shown = share
            emit(Moved(share))

    ceilings: dict[tuple[int, int, bool], float] | None = {} if job.harness else None
    profiler = make_profiler(Path(job.profile)) if job.profile else None

    def window(open: bool) -> None:
        if open:
            emit(Log("the measured time begins"))
        if profiler is not None:
            profiler.window(open)

    expected = _acknowledgements(member, job.ack_log) if job.ack_log else []
    for i, run in enumerate(job.lead or ()):
        resumes = job.resume and not i and member.epoch != Epoch()
        measurement = await run_cell(
            member,
            run.cell,
            run.plan,
            member.epoch if resumes else Epoch(job.process_nanos, run.iteration),
            content=True,
            samples=job.samples,
            expected=expected if resumes else (),
            ceilings=ceilings,
            window=window,
            stop=stop.is_set,
            progress=progress,
        )
        if profiler is not None:
            profiler.close()
        emit(Measured(measurement))
        if stop.is_set():
            return


def _acknowledgements(member: Member, path: str) -> list[AcknowledgedRun]:
    """What was acknowledged before, from the file to which `member` now adds: a line a run, written before the client is told, so
    that it outlives a killed process."""
    before = [AcknowledgedRun(*map(int, line.split())) for line in Path(path).read_text().splitlines()] if Path(path).exists() else []
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)

    def note(run: AcknowledgedRun) -> None:
        os.write(fd, b"%d %d %d %d\n" % run)

    member.on_acknowledged = note
    return before


def main() -> None:
    """The process that a benchmark starts."""
    job = msgspec.json.decode(sys.stdin.buffer.readline(), type=Job)
    encoder = msgspec.json.Encoder()

    def emit(event: Event) -> None:
        with contextlib.suppress(BrokenPipeError):
            sys.stdout.buffer.write(encoder.encode(event) + b"\n")
            sys.stdout.buffer.flush()

    def outlive_nobody() -> None:
        sys.stdin.buffer.read()
        os._exit(3)

    threading.Thread(target=outlive_nobody, daemon=True).start()

    async def run() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        await run_node(job, emit, stop)

    status = 0
    try:
        start_loop(run())
    except RafttoyError as error:
        kind = "StorageError" if isinstance(error, StorageError) else type(error).__name__
        emit(Failed(kind, str(error)))
        status = error.exit_status
    except BaseException as error:  # noqa: BLE001  # a bug of ours: told, and not left to an interpreter that threads keep from ending
        traceback.print_exc()
        emit(Failed("RunError", f"internal error: {error!r}"))
        status = 3
    sys.stderr.flush()
    os._exit(status)  # threads of gRPC and of the disk may still be busy; nothing they hold matters now


if __name__ == "__main__":
    main()
