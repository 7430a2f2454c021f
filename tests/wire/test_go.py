"""etcd/raft's own Go code reads our bytes, and we read what it writes."""

from __future__ import annotations

import base64
import json
import os
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from rafttoy.ports import Packet
from rafttoy.raft import EntryBatch, EntryType, Message, MessageType, Payloads
from rafttoy.wire import Epoch, decode, encode
from tests.wire.strategies import TRAVELLING, messages, shape, varint

SOURCE = Path(__file__).with_name("go")


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Go program of `go/`, built; skips where there is no Go, or no way to its modules."""
    go = shutil.which("go", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/go/bin"]))
    if go is None:
        pytest.skip("no Go toolchain")
    if subprocess.run([go, "mod", "download"], cwd=SOURCE, capture_output=True, check=False, timeout=240).returncode:
        pytest.skip("go.etcd.io/raft/v3 is neither cached nor to be had")
    program = tmp_path_factory.mktemp("go") / "reader"
    built = subprocess.run([go, "build", "-o", program, "."], cwd=SOURCE, capture_output=True, text=True, check=False, timeout=240)
    assert built.returncode == 0, built.stderr
    return program


def ask(reader: Path, packets: list[bytes]) -> list[dict[str, Any]]:
    """What Go says of each message in these packets, in order."""
    data = b"".join(struct.pack("<I", len(packet)) + packet for packet in packets)
    done = subprocess.run([reader], input=data, capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    return [json.loads(line) for line in done.stdout.splitlines()]


def told(go: dict[str, Any]) -> dict[str, Any]:
    def data(text: str | None) -> bytes:
        return base64.b64decode(text or "")

    snapshot = None
    if go["Snapshot"] and go["SnapIndex"]:
        sets = [tuple(go[name] or ()) for name in ("Voters", "Learners", "Outgoing", "Next")]
        snapshot = (data(go["SnapData"]), go["SnapIndex"], go["SnapTerm"], sets, go["AutoLeave"])
    return {
        "type": go["Type"],
        "to": go["To"],
        "from": go["From"],
        "term": go["Term"],
        "log_term": go["LogTerm"],
        "index": go["Index"],
        "entries": [(e["Index"], e["Term"], e["Type"], data(e["Data"])) for e in go["Entries"] or ()],
        "commit": go["Commit"],
        "vote": go["Vote"],
        "snapshot": snapshot,
        "reject": go["Reject"],
        "reject_hint": go["RejectHint"],
        "context": data(go["Context"]),
    }


def comparable(message: Message) -> dict[str, Any]:
    out = shape(message)
    if message.snapshot is not None:
        s, c = message.snapshot, message.snapshot.metadata.conf_state
        sets = [c.voters, c.learners, c.voters_outgoing, c.learners_next]
        out["snapshot"] = (s.data, s.metadata.index, s.metadata.term, sets, c.auto_leave)
    return out


@settings(max_examples=25, phases=[Phase.explicit, Phase.generate], suppress_health_check=list(HealthCheck))
@given(batch=st.lists(st.lists(messages(), max_size=6), min_size=1, max_size=10))
def test_go_reads_ours_and_we_read_gos(reader: Path, batch: list[list[Message]]) -> None:
    sent = [message for group in batch for message in group]
    answers = ask(reader, [encode(Epoch(7, i), group, b"control").join() for i, group in enumerate(batch)])
    assert [told(answer) for answer in answers] == [comparable(message) for message in sent]
    for message, answer in zip(sent, answers, strict=True):
        theirs = base64.b64decode(answer["Encoded"])
        data = b"\x0a\x00\x12" + varint(len(theirs)) + theirs
        (back,) = decode(Packet((data,), len(data)))
        assert [comparable(m) for m in back.messages] == [comparable(message)]


def test_go_reads_every_type(reader: Path) -> None:
    sent = [Message(type, 2, 1, 3) for type in TRAVELLING]
    assert [told(answer) for answer in ask(reader, [encode(Epoch(1, 1), sent).join()])] == [comparable(message) for message in sent]


def test_go_writes_the_very_entries_that_we_write(reader: Path) -> None:
    """Frame by frame: its log and ours hold the same bytes."""
    batches = [
        EntryBatch.encode(1, 1, EntryType.NORMAL, Payloads(300, bytes(range(90)) * 300, 90)),
        EntryBatch.encode(301, 2, EntryType.CONF_CHANGE_V2, Payloads.of([b"", b"x", bytes(200)])),
    ]
    (answer,) = ask(reader, [encode(Epoch(1, 1), [Message(MessageType.APP, 2, 1, 2, entries=batches)]).join()])
    frames = b"".join(bytes(batch.frames) for batch in batches)  # type: ignore[arg-type]
    assert frames in base64.b64decode(answer["Encoded"])


def test_control_messages_are_skipped_by_go(reader: Path) -> None:
    assert ask(reader, [encode(Epoch(1, 1), (), b"for our own").join(), encode(Epoch(1, 1), ()).join()]) == []
