"""A group of peer processes on this host, and the processes that lead a running one: started, watched, ended.

Children are started anew (spawn: gRPC does not survive a fork), in sessions of their own, so that Ctrl-C reaches only the parent.
"""

from __future__ import annotations

import contextlib
import os
import random
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from rafttoy.cell import Cell, Plan
from rafttoy.errors import RafttoyError, RunError, StorageError
from rafttoy.ports import core_of
from rafttoy.real.idle import idle_cores
from rafttoy.real.node import Event, Failed, Job, Lead, Log, Measured, Moved
from rafttoy.run import Measurement

__all__ = ["drive_cluster", "free_addresses", "run_local"]

_STOP_SECONDS = 5.0
_decode = msgspec.json.Decoder(Event).decode


def free_addresses(count: int) -> tuple[str, ...]:
    """Loopback addresses that nobody listens on now, below the ports that the system gives to outgoing connections: one of those may be
    taken before a peer listens."""
    try:
        above = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError):
        above = 32768
    ports: list[int] = []
    while len(ports) < count:
        port = random.randrange(10_000, max(above, 20_000))
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            if port not in ports:
                ports.append(port)
    return tuple(f"127.0.0.1:{port}" for port in ports)


class _Child:
    """One peer's process. `failure` is what it said of its end, if it said anything."""

    def __init__(self, job: Job, errors: Path, cpus: Sequence[int] = ()) -> None:
        self.id = job.id
        self.leads = job.lead is not None
        self.failure: Failed | None = None
        self.told = False
        self._errors = errors
        with errors.open("wb") as sink:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "rafttoy.real.node"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=sink,
                start_new_session=True,
            )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        if cpus:
            os.sched_setaffinity(self.process.pid, cpus)
        self.process.stdin.write(msgspec.json.encode(job) + b"\n")
        self.process.stdin.flush()
        self.stdout = self.process.stdout
        self._partial = b""

    def events(self) -> list[Event]:
        """What it has said since; call it when its pipe is readable."""
        data = os.read(self.stdout.fileno(), 1 << 20)
        *lines, self._partial = (self._partial + data).split(b"\n")
        return [_decode(line) for line in lines if line]

    def why(self) -> str:
        """How it ended, in words."""
        if self.failure is not None:
            return f"{self.failure.kind}: {self.failure.message}"
        code = self.process.wait()
        last = self._errors.read_text(errors="replace").strip().splitlines()[-1:] if self._errors.exists() else []
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        return ": ".join([how, *last])

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


class _Group:
    """Children that are watched together."""

    def __init__(self, say: Callable[[str], None], verbose: bool) -> None:
        self._say = say
        self._verbose = verbose
        self._selector = selectors.DefaultSelector()
        self.children: list[_Child] = []
        self.failures: list[str] = []

    def add(self, child: _Child) -> None:
        self.children.append(child)
        self._selector.register(child.stdout, selectors.EVENT_READ, child)

    def poll(self, seconds: float) -> list[tuple[_Child, Measured | Moved]]:
        """Events of all children, in order of arrival; deaths are noted in `failures`."""
        out: list[tuple[_Child, Measured | Moved]] = []
        for key, _ in self._selector.select(seconds):
            child: _Child = key.data
            events = child.events()
            if not events and child.process.poll() is not None:
                self._selector.unregister(child.stdout)
            for event in events:
                if isinstance(event, Failed):
                    child.failure = event
                elif isinstance(event, Log):
                    if self._verbose:
                        self._say(f"peer {child.id}: {event.line}")
                elif isinstance(event, Measured | Moved):
                    out.append((child, event))
        for child in self.children:
            if not child.told and child.process.poll() is not None and (child.failure or not child.leads or child.process.returncode):
                child.told = True
                self.failures.append(f"peer {child.id} stopped: {child.why()}")
                self._say(self.failures[-1])
        return out

    def alive(self) -> int:
        return sum(1 for child in self.children if child.process.poll() is None)

    def end(self) -> None:
        for child in self.children:
            if child.process.poll() is None:
                child.process.terminate()
        for child in self.children:
            child.end()
        self._selector.close()


def _loop_cpu(id: int) -> int:
    """The processor for the event loop of peer `id`; -1 where the system cannot be told."""
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    return allowed[core_of(id, len(allowed))] if allowed else -1


@contextlib.contextmanager
def _directories(data_dir: Path | None, *, keep: bool = False) -> Iterator[tuple[Path, Path]]:
    """(where peers keep their data, where their last words go). Both are of this run and go with it, but for a `data_dir` to keep.

    Raises StorageError naming the directory."""
    assert data_dir is not None or not keep
    try:
        if data_dir is not None:
            data_dir.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix="rafttoy-", dir=None if keep else data_dir))
    except OSError as error:
        raise StorageError(f"data directory {data_dir or tempfile.gettempdir()}: {error.strerror}") from None
    try:
        yield data_dir if keep and data_dir is not None else made, made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def run_local(
    runs: Sequence[tuple[Cell, Plan]],
    *,
    data_dir: Path | None,
    on_measured: Callable[[int, Measurement], None],
    progress: Callable[[int, float], None],
    say: Callable[[str], None],
    verbose: bool = False,
    samples: bool = False,
    keep: bool = False,
    fresh: bool = False,
    ack_log: Path | None = None,
    cpus: Sequence[Sequence[int]] | None = None,
    harness: bool = False,
    profile: Path | None = None,
) -> None:
    """Runs cells of one configuration on peers that are processes on loopback; measurements as they come, by position in `runs`.

    The peers serve all of `runs` without a restart. With `keep`, they keep their data in `data_dir`, and the first run resumes the
    group that is there, unless `fresh` forgets it. `cpus` are sets that peers 1, 2, … are pinned to, round and round
    (none: nobody is); without it each event loop has a processor (`_loop_cpu`). With `harness` the
    leader also measures how fast its client is by itself; `profile` is a file for what it does meanwhile (`rafttoy.real.profile`). Raises
    RunError or StorageError when a run fails; what was handed over stands."""
    cell = runs[0][0]
    group = _Group(say, verbose)
    with idle_cores(runs[0][1].idle), _directories(data_dir, keep=keep) as (root, words):
        try:
            in_process = cell.transport == "mem"
            addresses = ("",) * cell.nodes if in_process else free_addresses(cell.nodes)
            lead = tuple(Lead(c, p, i + 1) for i, (c, p) in enumerate(runs))
            process_nanos = time.time_ns()
            for id in range(cell.nodes, 0, -1):
                if in_process and id != 1:
                    continue
                job = Job(
                    id=id,
                    addresses=addresses,
                    data_dir=str(root if in_process else root / f"peer-{id}"),
                    cell=cell,
                    plan=runs[0][1],
                    process_nanos=process_nanos,
                    lead=lead if id == 1 else None,
                    samples=samples,
                    fresh=fresh,
                    resume=keep,
                    ack_log=str(ack_log) if ack_log is not None else "",
                    harness=harness,
                    profile=str(profile.absolute()) if profile is not None else "",
                    loop_cpu=-1 if in_process or cpus is not None else _loop_cpu(id),
                )
                group.add(_Child(job, words / f"peer-{id}.err", cpus[(id - 1) % len(cpus)] if cpus else ()))
            _watch(group, len(runs), 1 if in_process else cell.nodes, on_measured, progress)
        finally:
            group.end()


def drive_cluster(
    runs: Sequence[tuple[Cell, Plan]],
    *,
    id: int,
    peers: tuple[str, ...],
    data_dir: Path | None,
    on_measured: Callable[[int, Measurement], None],
    progress: Callable[[int, float], None],
    say: Callable[[str], None],
    verbose: bool = False,
    keep: bool = False,
    fresh: bool = False,
    cpus: Sequence[Sequence[int]] | None = None,
    harness: bool = False,
    profile: Path | None = None,
) -> None:
    """Leads a running cluster as its member `id`, in a process of its own, which is pinned to the first of `cpus`. `keep`, `fresh`,
    `harness` and `profile` as in `run_local`."""
    group = _Group(say, verbose)
    with idle_cores(runs[0][1].idle), _directories(data_dir, keep=keep) as (root, words):
        try:
            lead = tuple(Lead(c, p, i + 1) for i, (c, p) in enumerate(runs))
            job = Job(
                id=id,
                addresses=peers,
                data_dir=str(root / f"peer-{id}"),
                cell=runs[0][0],
                plan=runs[0][1],
                process_nanos=time.time_ns(),
                lead=lead,
                fresh=fresh,
                resume=keep,
                harness=harness,
                profile=str(profile.absolute()) if profile is not None else "",
            )
            group.add(_Child(job, words / f"peer-{id}.err", cpus[0] if cpus else ()))
            _watch(group, len(runs), 1, on_measured, progress)
        finally:
            group.end()


def _watch(
    group: _Group, count: int, nodes: int, on_measured: Callable[[int, Measurement], None], progress: Callable[[int, float], None]
) -> None:
    """Until the leader has led all runs. On Ctrl-C the leader hands over what it has, then KeyboardInterrupt goes on."""
    leader = next(child for child in group.children if child.leads)
    done = 0
    interrupted = 0.0
    quorum = nodes // 2 + 1

    def handle(seconds: float) -> None:
        nonlocal done
        for _, event in group.poll(seconds):
            if isinstance(event, Measured):
                on_measured(done, event.measurement)
                done += 1
            else:
                progress(done, event.share)

    while done < count:
        try:
            handle(0.2)
            if leader.process.poll() is not None:
                handle(0.0)
                if done >= count:
                    break
                if interrupted:
                    raise KeyboardInterrupt
                raise _ended(leader, group)
            if group.alive() < quorum:
                handle(0.0)  # who is not alive now may have died since deaths were noted
                if leader.process.poll() is not None:
                    continue  # that is what there is to tell
                raise RunError(f"no quorum: {group.alive()} of {nodes} peers are left; " + "; ".join(group.failures))
            if group.failures and 0 < done < count and not interrupted:
                raise RunError(f"{count - done} run(s) not begun: " + "; ".join(group.failures))
            if interrupted and time.monotonic() - interrupted > _STOP_SECONDS:
                raise KeyboardInterrupt
        except KeyboardInterrupt:
            if interrupted:
                raise
            interrupted = time.monotonic()
            leader.process.send_signal(signal.SIGINT)
    if interrupted:  # in the last run: its part was handed over
        raise KeyboardInterrupt


def _ended(leader: _Child, group: _Group) -> RafttoyError:
    if leader.failure is not None:
        error = leader.failure.error()
        causes = [failure for failure in group.failures if not failure.startswith(f"peer {leader.id} ")]
        return type(error)("; ".join([f"peer {leader.id}: {error}", *causes]))
    return RunError(f"the leader, peer {leader.id}, ended early: {leader.why()}")
