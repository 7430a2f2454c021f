"""Long-lived peers serve run after run; whoever starts processes ends them, however it is ended itself."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rafttoy.real.cluster import free_addresses
from tests.real.processes import DEADLINE_SECONDS, Started, wait_until

pytestmark = pytest.mark.real

ROOT = Path(__file__).resolve().parents[2]
RAFTTOY = [sys.executable, "-c", "import ctypes; ctypes.CDLL(None).prctl(1, 9); from rafttoy.cli.main import main; main()"]
"""It ends with the tests, even where those are ended by a time limit and clean nothing up (PR_SET_PDEATHSIG)."""

PATIENT = ("--connect-timeout", "200s")  # a busy machine may stall


class Command:
    """A `rafttoy` command line in a process of its own, its output in files (so that it never waits for a reader)."""

    def __init__(self, directory: Path, *arguments: object) -> None:
        self.directory = directory
        directory.mkdir()
        with (directory / "out").open("wb") as out, (directory / "err").open("wb") as err:
            command = [*RAFTTOY, *map(str, arguments)]
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=err)

    @property
    def out(self) -> str:
        return (self.directory / "out").read_text()

    @property
    def err(self) -> str:
        return (self.directory / "err").read_text()

    def says(self, pattern: str) -> re.Match[str]:
        """Waits for that on its stderr."""
        found = wait_until(pattern, lambda: re.search(pattern, self.err, re.MULTILINE) or self.process.poll() is not None)
        assert isinstance(found, re.Match), f"it ended without saying {pattern!r}:\n{self.err}"
        return found

    def ends(self) -> int:
        return self.process.wait(DEADLINE_SECONDS)


Start = Callable[..., Command]


@pytest.fixture
def start(tmp_path: Path, scratch: Path) -> Iterator[Start]:
    commands: list[Command] = []

    def start(*arguments: object) -> Command:
        commands.append(Command(tmp_path / f"command-{len(commands)}", *arguments))
        return commands[-1]

    yield start
    for command in commands:
        if command.process.poll() is None:
            command.process.kill()
        command.process.wait()


def start_followers(start: Start, peers: str, transport: str, *more: object) -> list[Command]:
    followers = [start("peer", "--id", id, "--peers", peers, "--transport", transport, *more) for id in (2, 3)]
    for id, follower in zip((2, 3), followers, strict=True):
        follower.says(rf"^rafttoy: peer {id} listens on ")
    return followers


def lead(start: Start, peers: str, transport: str, *more: object) -> list[dict]:
    command = start("bench", "--id", 1, "--peers", peers, "--transport", transport, "--verify", "-o", "json", *PATIENT, *more)
    assert command.ends() == 0, command.err
    return [json.loads(line) for line in command.out.splitlines()]


@pytest.mark.parametrize("transport", ["tcp", "grpc"])
def test_two_peers_serve_three_benchmarks(start: Start, scratch: Path, transport: str) -> None:
    """Each with another pipeline, storage and size, one after another; nobody is restarted."""
    peers = ",".join(free_addresses(3))
    followers = start_followers(start, peers, transport)
    runs = [
        ("basic", "split", "mem", "mem", 64, 4),
        ("async-apply-early-ack-lazy-follower", "leveldb", "leveldb", "leveldb", 1000, 32),
        ("async-storage", "split", "leveldb", "mem", 16, 1),
    ]
    for pipeline, storage, wal, engine, size, conc in runs:
        flags = ("--pipeline", pipeline, "--storage", storage, "--bytes", size, "--conc", conc)
        flags += ("--wal", wal, "--engine", engine) if storage == "split" else ()
        (row,) = lead(start, peers, transport, *flags, "--proposals", 300, "--warmup", "0s")
        assert (row["pipeline"], row["storage"], row["wal"], row["bytes"], row["conc"]) == (pipeline, storage, wal, size, conc)
        assert row["verified"]
        assert row["ops"] >= 300
        assert not any("lost" in warning for warning in row["warnings"])
        assert [follower.process.poll() for follower in followers] == [None, None]
    for follower in followers:
        follower.process.send_signal(signal.SIGINT)
        assert follower.ends() in (0, 130)


def test_a_newer_benchmark_takes_the_peers_over(start: Start) -> None:
    """One that is led by another member: whoever led before says so, in whatever state it is."""
    peers = ",".join(free_addresses(3))
    shared = ("--peers", peers, "--transport", "tcp")
    followers = start_followers(start, peers, "tcp")
    load = ("--wal", "mem", "--engine", "mem", "--warmup", "0s", "--duration", "600s", "--connect-timeout", "600s", "-v")
    first = start("bench", "--id", 1, *shared, *load)
    first.says("peer 1: epoch ")
    followers[0].process.send_signal(signal.SIGTERM)  # the next one leads in its place
    assert followers[0].ends() == 0
    second = start("bench", "--id", 2, *shared, *load)
    assert first.ends() == 3
    assert re.search("^rafttoy: error: .*peer 1: another leader began a newer run", first.err, re.MULTILINE), first.err
    assert second.process.poll() is None
    assert followers[1].process.poll() is None
    second.process.send_signal(signal.SIGINT)
    assert second.ends() == 130
    followers[1].process.send_signal(signal.SIGTERM)
    assert followers[1].ends() == 0


# --- how a benchmark ends ---

LONG = ("--duration", "60s", "--warmup", "0s", "--conc", 4, "--wal", "mem", "--engine", "mem", "--transport", "tcp", *PATIENT)


def under_load(command: Command, started: Started) -> dict[int, int]:
    """Waits until its three peers run an epoch; {peer: pid}."""
    for id in (1, 2, 3):
        command.says(rf"peer {id}: epoch ")
    command.says("peer 1: the measured time begins")
    time.sleep(0.5)  # to have something to hand over
    peers = started.peers()
    assert sorted(peers) == [1, 2, 3]
    return peers


def test_an_interrupt_prints_what_was_measured_and_leaves_nothing(start: Start, scratch: Path, started: Started) -> None:
    command = start("bench", *LONG, "-v", "-o", "json")
    under_load(command, started)
    command.process.send_signal(signal.SIGINT)
    assert command.ends() == 130
    (row,) = [json.loads(line) for line in command.out.splitlines()]
    assert row["partial"]
    assert row["ops"] > 0
    assert started.pids() == []
    assert list(scratch.iterdir()) == []


def test_an_interrupt_before_the_peers_are_there_ends_it(start: Start, scratch: Path, started: Started) -> None:
    """It waits for peers that never come: it need not wait with whoever waits for it."""
    command = start("bench", "--id", 1, "--peers", ",".join(free_addresses(3)), *LONG, "-v")
    command.says("peer 1: epoch ")
    command.process.send_signal(signal.SIGINT)
    assert command.ends() == 130
    assert command.out == ""
    assert started.pids() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_termination_leaves_nothing_either(start: Start, scratch: Path, started: Started, number: signal.Signals) -> None:
    command = start("bench", *LONG, "-v")
    under_load(command, started)
    command.process.send_signal(number)
    assert command.ends() == 128 + number
    wait_until("the peers' end", lambda: not started.pids())
    assert list(scratch.iterdir()) == []


def test_peers_do_not_outlive_a_benchmark_that_is_killed(start: Start, tmp_path: Path, started: Started) -> None:
    """It has no chance to end them; they notice that it is gone. (Their directory stays: there is nobody to remove it.)"""
    command = start("bench", *LONG, "-v", "--data-dir", tmp_path / "data")
    under_load(command, started)
    command.process.kill()
    command.ends()
    wait_until("the peers' end", lambda: not started.pids())


def test_a_killed_follower_and_a_killed_leader_end_with_3_and_their_names(start: Start, scratch: Path, started: Started) -> None:
    command = start("bench", *LONG, "-v")
    os.kill(under_load(command, started)[1], signal.SIGKILL)
    assert command.ends() == 3
    assert re.search(r"^rafttoy: error: .*peer 1.*SIGKILL", command.err, re.MULTILINE), command.err
    command = start("bench", *LONG, "-v")
    peers = under_load(command, started)
    os.kill(peers[2], signal.SIGKILL)
    command.says("peer 2 stopped: killed by SIGKILL")
    assert command.process.poll() is None  # it goes on with the other two
    os.kill(peers[3], signal.SIGKILL)
    assert command.ends() == 3
    assert re.search(r"^rafttoy: error: no quorum: .*peer 2 .*SIGKILL.*peer 3 .*SIGKILL", command.err, re.MULTILINE), command.err


def test_a_peer_whose_address_is_taken_says_so(start: Start, scratch: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        peers = f"127.0.0.1:{taken.getsockname()[1]}"
        for transport in ("tcp", "grpc"):
            command = start("peer", "--id", 1, "--peers", peers, "--transport", transport)
            assert command.ends() == 3
            assert f"peer 1 cannot listen on {peers}: address already in use" in command.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_peer_that_is_ended_removes_its_directory(start: Start, scratch: Path, number: signal.Signals) -> None:
    for follower in start_followers(start, ",".join(free_addresses(3)), "tcp"):
        follower.process.send_signal(number)
        assert follower.ends() == 0
    assert list(scratch.iterdir()) == []
