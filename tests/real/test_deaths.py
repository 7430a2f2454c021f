"""Peers that die, lose their disks or hear nonsense while a benchmark runs."""

from __future__ import annotations

import os
import re
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import grpc
import pytest

from rafttoy.cell import Plan
from rafttoy.errors import RunError, StorageError
from rafttoy.real import cluster
from rafttoy.wire import SERVICE
from tests.real.processes import Run, Started, cell_of

pytestmark = pytest.mark.real

PLAN = Plan(seconds=0.6, warmup_seconds=0.0, connect_seconds=200.0)
LONG = Plan(seconds=8.0, warmup_seconds=0.0, connect_seconds=200.0)
ROOT = Path(__file__).resolve().parents[2]


def kill(started: Started, *ids: int) -> None:
    peers = started.peers()
    for id in ids:
        os.kill(peers[id], signal.SIGKILL)


@pytest.mark.parametrize("transport", ["tcp", "grpc"])
@pytest.mark.parametrize("pipeline", ["basic", "async-storage"])
def test_a_follower_that_is_killed_is_named_and_the_run_goes_on(group: Run, started: Started, transport: str, pipeline: str) -> None:
    group.when(0.2, lambda: kill(started, 3))
    (m,) = group.run(cell_of(transport=transport, pipeline=pipeline), PLAN)
    assert not m.partial
    assert m.seconds >= 0.6
    assert 1 in m.reports
    assert 3 not in m.reports
    assert "no report from peer 3" in m.warnings
    assert any(line.startswith("peer 3 stopped: killed by SIGKILL") for line in group.said)
    assert any(warning.startswith("lost the connection to peer 3") for warning in m.warnings)


def test_the_runs_after_a_death_are_not_begun(group: Run, started: Started) -> None:
    """A group that lost a member is another configuration: its figures would be compared with the others'."""
    group.when(0.2, lambda: kill(started, 2))
    with pytest.raises(RunError, match=r"2 run\(s\) not begun: peer 2 stopped: killed by SIGKILL"):
        group.run(cell_of(), PLAN, runs=3)
    assert len(group.measured) == 1


@pytest.mark.parametrize("transport", ["tcp", "grpc"])
def test_without_a_quorum_the_run_ends_and_names_the_dead(group: Run, started: Started, transport: str) -> None:
    group.when(0.05, lambda: kill(started, 2, 3))
    with pytest.raises(RunError, match="no quorum: 1 of 3 peers are left") as caught:
        group.run(cell_of(transport=transport), LONG)
    for id in (2, 3):
        assert f"peer {id} stopped: killed by SIGKILL" in str(caught.value)
    assert group.measured == []


def test_a_leader_that_is_killed_is_named(group: Run, started: Started) -> None:
    group.when(0.05, lambda: kill(started, 1))
    with pytest.raises(RunError, match="the leader, peer 1, ended early: killed by SIGKILL"):
        group.run(cell_of(), LONG)


@pytest.mark.parametrize("nodes", [1, 5])
def test_groups_of_other_sizes(group: Run, started: Started, nodes: int) -> None:
    if nodes == 5:
        group.when(0.2, lambda: kill(started, 4, 5))
    (m,) = group.run(cell_of(nodes=nodes), PLAN)
    assert not {4, 5} & set(m.reports)
    assert m.ops > 0


# --- disks ---


def forbid_writes(started: Started, id: int) -> None:
    """From now on, the system refuses that peer's every write to a file: the limit of a file's size is 0."""
    resource.prlimit(started.peers()[id], resource.RLIMIT_FSIZE, (0, 0))


@pytest.mark.parametrize("pipeline", ["parallel-append-early-ack", "async-apply", "async-storage"])
def test_a_follower_that_cannot_write_stops_and_the_run_goes_on(group: Run, started: Started, pipeline: str) -> None:
    group.when(0.2, lambda: forbid_writes(started, 2))
    (m,) = group.run(cell_of(pipeline=pipeline, wal="file"), PLAN)
    assert not m.partial
    assert "no report from peer 2" in m.warnings
    assert any(re.match(r"peer 2 stopped: StorageError: .*/wal/.*: File too large", line) for line in group.said), group.said


@pytest.mark.parametrize("pipeline", ["parallel-append", "async-storage"])
def test_a_leader_that_cannot_write_ends_the_run(group: Run, started: Started, pipeline: str) -> None:
    group.when(0.05, lambda: forbid_writes(started, 1))
    with pytest.raises(StorageError, match=r"peer 1: .*/wal/.*: File too large"):
        group.run(cell_of(pipeline=pipeline, wal="file"), LONG)
    assert group.measured == []


class Broken:
    """`ids` are the peers whose processes run `broken_node.py` instead; `lose_syncs` breaks their disks from then on."""

    def __init__(self, trigger: Path) -> None:
        self.ids: set[int] = set()
        self._trigger = trigger

    def lose_syncs(self) -> None:
        self._trigger.touch()

    def went_well(self) -> int:
        """How many syncs did, before the first one that was lost."""
        return int(self._trigger.read_text())


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Broken:
    out = Broken(tmp_path / "lose-syncs")
    popen = subprocess.Popen

    def start(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        sink = getattr(options.get("stderr"), "name", "")
        if isinstance(sink, str) and any(sink.endswith(f"peer-{id}.err") for id in out.ids):
            command = [sys.executable, str(Path(__file__).with_name("broken_node.py"))]
            options["env"] = {**os.environ, "PYTHONPATH": str(ROOT), "LOSE_SYNCS": str(out._trigger)}
        return popen(command, **options)

    monkeypatch.setattr(cluster.subprocess, "Popen", start)
    return out


@pytest.mark.parametrize("pipeline", ["basic", "async-apply", "async-storage"])
def test_a_follower_that_loses_a_sync_stops_and_does_not_try_again(group: Run, broken: Broken, pipeline: str) -> None:
    broken.ids.add(3)
    group.when(0.2, broken.lose_syncs)
    (m,) = group.run(cell_of(pipeline=pipeline, wal="file"), PLAN)
    assert not m.partial
    assert "no report from peer 3" in m.warnings
    told = [line for line in group.said if line.startswith("peer 3 stopped")]
    assert len(told) == 1
    assert re.match(r"peer 3 stopped: StorageError: .*Input/output error", told[0])


@pytest.mark.parametrize("nodes", [1, 3])
def test_a_leader_that_loses_a_sync_ends_the_run_and_acknowledged_nothing_of_it(
    group: Run, broken: Broken, nodes: int, tmp_path: Path
) -> None:
    """What it acknowledged is written down before the client is told: alone, with one proposal at a time, no more than its syncs."""
    broken.ids.add(1)
    group.when(0.05, broken.lose_syncs)
    log = tmp_path / "acknowledged"
    with pytest.raises(StorageError, match=r"peer 1: .*Input/output error"):
        group.run(cell_of(nodes=nodes, conc=1, wal="file"), LONG, ack_log=log)
    assert group.measured == []
    acknowledged = len(log.read_text().splitlines())
    assert acknowledged > 0
    if nodes == 1:
        assert acknowledged <= broken.went_well()


# --- nonsense ---


@pytest.fixture
def addresses(monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """Those that the peers of this test's group listen on."""
    fixed = cluster.free_addresses(3)
    monkeypatch.setattr(cluster, "free_addresses", lambda count: fixed[:count])
    return fixed


def dropped(address: str, data: bytes) -> bool:
    """Whether the peer there ends a connection on which these bytes come."""
    host, port = address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(data)
        try:
            while connection.recv(65536):
                pass
        except ConnectionError:
            pass
        except TimeoutError:
            return False
        return True


NONSENSE = [
    b"\x12\x02\x08\x63",  # a message of an unknown type
    b"\x0a\x02\x08\x01\x7a\x03{]!",  # a control message that is none
    b"\xff" * 50,
]


def test_garbage_on_a_tcp_port_ends_its_connection_and_nothing_else(group: Run, addresses: tuple[str, ...]) -> None:
    outcomes = []

    def disturb() -> None:
        for address in addresses:
            outcomes.extend(dropped(address, struct.pack("<I", len(data)) + data) for data in NONSENSE)
            outcomes.append(dropped(address, b"\xff" * 100))  # no frame at all

    group.when(0.2, disturb)
    (m,) = group.run(cell_of(), Plan(seconds=1.0, warmup_seconds=0.0, verify=True, connect_seconds=200.0))
    assert outcomes == [True] * 12
    assert m.verified
    assert not any("lost" in warning for warning in m.warnings)
    assert sum("dropped a connection" in line for line in group.said) == 12
    assert not any("stopped" in line for line in group.said)


def test_garbage_on_a_grpc_port_ends_its_stream_and_nothing_else(group: Run, addresses: tuple[str, ...]) -> None:
    outcomes: list[Any] = []

    def disturb() -> None:
        for address in addresses:
            outcomes.extend(status_of(address, data) for data in NONSENSE)
            outcomes.append(dropped(address, b"\xff" * 100))

    group.when(0.2, disturb)
    (m,) = group.run(cell_of(transport="grpc"), Plan(seconds=1.0, warmup_seconds=0.0, verify=True, connect_seconds=200.0))
    assert outcomes == [*[grpc.StatusCode.INVALID_ARGUMENT] * 3, True] * 3
    assert m.verified
    assert not any("lost" in warning for warning in m.warnings)
    assert sum("dropped a connection" in line for line in group.said) == 9


def status_of(address: str, data: bytes) -> grpc.StatusCode:
    """How a stream ends on which this message comes, and nothing after it."""
    ended = threading.Event()

    def messages() -> Any:
        yield data
        ended.wait()

    with grpc.insecure_channel(address) as channel:
        try:
            for _ in channel.stream_stream(SERVICE)(messages()):
                pass
        except grpc.RpcError as error:
            code: grpc.StatusCode = error.code()
            return code
        finally:
            ended.set()
        return grpc.StatusCode.OK
