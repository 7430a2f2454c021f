"""`--wal etcd` against etcd itself: byte for byte the same files from the same saves, and each reads what the other wrote.

`tests/storage/etcd` is a small Go program on etcd's public WAL package. Where Go or its modules are not to be had, this is skipped.
"""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rafttoy.ports import Ports
from rafttoy.raft.entries import EntryBatch, EntryType, Payloads
from rafttoy.raft.types import EMPTY_HARD_STATE, ConfState, HardState, SnapshotMetadata
from rafttoy.storage.api import Save, WalState
from rafttoy.storage.etcdwal import EtcdWal
from tests.storage.beds import RealBed

pytestmark = [pytest.mark.real, pytest.mark.slow]

SOURCE = Path(__file__).parent / "etcd"
SEGMENT = 32_000


@pytest.fixture(scope="session")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built program."""
    go = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
    if go is None:
        pytest.skip("Go is not installed: etcd's own log cannot be asked")
    program = tmp_path_factory.mktemp("etcd") / "etcdwal"
    built = subprocess.run([go, "build", "-o", program, "."], cwd=SOURCE, capture_output=True, text=True, check=False, timeout=240)
    if built.returncode:
        if any(word in built.stderr for word in ("dial tcp", "lookup", "no such host", "proxy", "connect")):
            pytest.skip(f"etcd's modules are not to be had: {built.stderr.splitlines()[-1]}")
        pytest.fail(built.stderr)
    return program


@dataclass
class Step:
    """One save: what etcd's `Save` or `SaveSnapshot` is called with."""

    entries: Sequence[EntryBatch] = ()
    hard_state: HardState | None = None
    mark: SnapshotMetadata | None = None

    def line(self) -> str:
        if self.mark is not None:
            return json.dumps({"snapshot": {"index": self.mark.index, "term": self.mark.term, "voters": self.mark.conf_state.voters}})
        state = self.hard_state
        return json.dumps(
            {
                "state": None if state is None else {"term": state.term, "vote": state.vote, "commit": state.commit},
                "entries": [
                    {"term": batch.term, "index": index, "type": int(batch.type), "data": base64.b64encode(data).decode()}
                    for batch in self.entries
                    for index, data in enumerate(batch.payloads(), batch.first)
                ],
            }
        )


def history(seed: int, steps: int, *, large: bool = False) -> list[Step]:
    """Saves with entries of all shapes, overwrites and marks."""
    rng = np.random.default_rng(seed)
    out: list[Step] = []
    terms: dict[int, int] = {}
    last, term, committed = 0, 1, 0
    for _ in range(steps):
        draw = rng.random()
        if draw < 0.1 and last > committed:
            committed = int(rng.integers(committed, last)) + 1
            out.append(Step(hard_state=HardState(term, 2, committed)))
            if rng.random() < 0.5:
                out.append(Step(mark=SnapshotMetadata(ConfState((1, 2, 3)), committed, terms[committed])))
            continue
        first = last + 1
        state = None
        if draw < 0.25 and last > committed:
            term += 1
            first = int(rng.integers(committed, last)) + 1
            state = HardState(term, 1, committed)
        elif draw < 0.4:
            state = HardState(term, 1, committed)
        batches = []
        for _ in range(int(rng.integers(1, 4))):
            count = int(rng.choice([1, 3, 12, 40]))
            size = int(rng.choice([0, 1, 30, 200, 3000 if not large else 60_000]))
            if rng.random() < 0.2:
                data = Payloads.of([rng.bytes(int(n)) for n in rng.integers(0, 300, count)])
            else:
                data = Payloads(count, rng.bytes(count * size), size)
            kind = EntryType.CONF_CHANGE if rng.random() < 0.05 else EntryType.NORMAL
            batches.append(EntryBatch.encode(first, term, kind, data))
            first += count
        last = first - 1
        for batch in batches:
            terms.update(dict.fromkeys(range(batch.first, batch.last + 1), batch.term))
        out.append(Step(batches, state))
    return out


def write_ours(root: Path, steps: Sequence[Step], segment_bytes: int = SEGMENT) -> None:
    async def scenario(ports: Ports) -> None:
        wal = EtcdWal(ports, cache_bytes=0, sync="fdatasync", segment_bytes=segment_bytes)
        await wal.open()
        for step in steps:
            await wal.write([Save(step.entries, step.hard_state, step.mark)], sync=True)
        await wal.close()

    RealBed(root).run(scenario)


def read_ours(root: Path) -> WalState:
    async def scenario(ports: Ports) -> WalState:
        wal = EtcdWal(ports, cache_bytes=0, sync="fdatasync", segment_bytes=SEGMENT)
        state = await wal.open()
        await wal.close()
        return state

    return RealBed(root).run(scenario)


def run(etcd: Path, *arguments: object, text: str = "") -> str:
    done = subprocess.run([etcd, *map(str, arguments)], input=text, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def write_theirs(etcd: Path, root: Path, steps: Sequence[Step], segment_bytes: int = SEGMENT) -> None:
    root.mkdir(parents=True, exist_ok=True)
    run(etcd, "write", root / "wal", segment_bytes, text="".join(step.line() + "\n" for step in steps))


def read_theirs(etcd: Path, root: Path, mark: SnapshotMetadata | None) -> dict[str, Any]:
    at = mark or SnapshotMetadata()
    out: dict[str, Any] = json.loads(run(etcd, "read", root / "wal", at.index, at.term))
    return out


def files(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((root / "wal").iterdir()) if path.suffix != ".tmp"}


def expected(steps: Sequence[Step]) -> tuple[list[tuple[int, int, int, bytes]], HardState, SnapshotMetadata | None]:
    """What the saves leave behind the newest mark: (index, term, type, data) each."""
    entries: dict[int, tuple[int, int, int, bytes]] = {}
    state, mark = EMPTY_HARD_STATE, None
    for step in steps:
        for batch in step.entries:
            for index in [index for index in entries if index >= batch.first]:
                del entries[index]
            for index, data in enumerate(batch.payloads(), batch.first):
                entries[index] = (index, batch.term, int(batch.type), data)
        state = step.hard_state or state
        mark = step.mark or mark
    begin = mark.index if mark is not None else 0
    return [entry for index, entry in sorted(entries.items()) if index > begin], state, mark


def ours_as_list(state: WalState) -> list[tuple[int, int, int, bytes]]:
    return [
        (index, batch.term, int(batch.type), data) for batch in state.batches for index, data in enumerate(batch.payloads(), batch.first)
    ]


def theirs_as_list(found: dict[str, Any]) -> list[tuple[int, int, int, bytes]]:
    return [(e["index"], e["term"], e["type"], base64.b64decode(e["data"] or "")) for e in found["entries"]]


@pytest.mark.parametrize("seed", range(6))
def test_the_same_saves_make_the_same_files(etcd: Path, tmp_path: Path, seed: int) -> None:
    steps = history(seed, 60)
    write_ours(tmp_path / "ours", steps)
    write_theirs(etcd, tmp_path / "theirs", steps)
    ours, theirs = files(tmp_path / "ours"), files(tmp_path / "theirs")
    assert len(theirs) > 3  # it was cut
    assert list(ours) == list(theirs)
    for name, data in theirs.items():
        assert ours[name] == data, name


def test_large_saves_are_cut_where_etcd_cuts_them(etcd: Path, tmp_path: Path) -> None:
    for seed in range(4):
        steps = history(100 + seed, 25, large=True)
        write_ours(tmp_path / f"ours{seed}", steps, 700_000)
        write_theirs(etcd, tmp_path / f"theirs{seed}", steps, 700_000)
        ours, theirs = files(tmp_path / f"ours{seed}"), files(tmp_path / f"theirs{seed}")
        assert len(theirs) > 1
        assert ours == theirs


@pytest.mark.parametrize("seed", range(10, 14))
def test_each_reads_what_the_other_wrote(etcd: Path, tmp_path: Path, seed: int) -> None:
    steps = history(seed, 50)
    entries, hard_state, mark = expected(steps)
    write_ours(tmp_path / "ours", steps)
    assert run(etcd, "verify", tmp_path / "ours" / "wal", mark.index if mark else 0, mark.term if mark else 0) == "ok\n"
    found = read_theirs(etcd, tmp_path / "ours", mark)
    assert found["error"] == ""
    assert found["state"] == {"term": hard_state.term, "vote": hard_state.vote, "commit": hard_state.commit}
    assert theirs_as_list(found) == entries

    write_theirs(etcd, tmp_path / "theirs", steps)
    state = read_ours(tmp_path / "theirs")
    assert (state.hard_state, state.mark, state.notes) == (hard_state, mark, [])
    assert ours_as_list(state) == entries


def test_each_goes_on_where_the_other_stopped(etcd: Path, tmp_path: Path) -> None:
    steps = history(20, 90)
    write_theirs(etcd, tmp_path, steps[:30])
    write_ours(tmp_path, steps[30:60])
    write_theirs(etcd, tmp_path, steps[60:])
    entries, hard_state, mark = expected(steps)
    found = read_theirs(etcd, tmp_path, mark)
    assert found["error"] == ""
    assert theirs_as_list(found) == entries
    state = read_ours(tmp_path)
    assert (state.hard_state, state.mark) == (hard_state, mark)
    assert ours_as_list(state) == entries


def tear(path: Path, rng: np.random.Generator) -> None:
    """Some sectors of the last write were never written, or the file ends early."""
    data = bytearray(path.read_bytes())
    end = len(data.rstrip(b"\0"))
    at = int(rng.integers(end // 2, end))
    if rng.random() < 0.3:
        path.write_bytes(data[:at])
        return
    sector = at // 512 * 512
    data[sector : sector + 512] = bytes(len(data[sector : sector + 512]))
    if rng.random() < 0.5:
        data[sector + 1024 :] = bytes(len(data[sector + 1024 :]))
    path.write_bytes(data)


@pytest.mark.parametrize("seed", range(30, 42))
def test_a_torn_tail_is_repaired_as_etcd_repairs_it(etcd: Path, tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    steps = history(seed, 30)
    write_theirs(etcd, tmp_path / "theirs", steps)
    last = max((tmp_path / "theirs" / "wal").glob("*.wal"))
    tear(last, rng)
    shutil.copytree(tmp_path / "theirs", tmp_path / "ours")

    found = read_theirs(etcd, tmp_path / "theirs", None)
    if found["error"]:  # as etcd's server does it: repair once, then open again
        assert run(etcd, "repair", tmp_path / "theirs" / "wal") == "true\n"
        found = read_theirs(etcd, tmp_path / "theirs", None)
    state = read_ours(tmp_path / "ours")
    assert files(tmp_path / "ours") == files(tmp_path / "theirs")
    begin = state.mark.index if state.mark is not None else 0
    assert [entry for entry in theirs_as_list(found) if entry[0] > begin] == ours_as_list(state)
    assert found["state"] == {"term": state.hard_state.term, "vote": state.hard_state.vote, "commit": state.hard_state.commit}
    assert bool(state.notes) == (last.with_name(last.name + ".broken").exists())


def test_damage_in_the_middle_is_refused_by_both(etcd: Path, tmp_path: Path) -> None:
    from rafttoy.errors import CorruptionError

    write_theirs(etcd, tmp_path, history(50, 60))
    first = min((tmp_path / "wal").glob("*.wal"))
    with first.open("r+b") as file:
        file.seek(5000)
        byte = file.read(1)
        file.seek(5000)
        file.write(bytes((byte[0] ^ 0x55,)))
    before = files(tmp_path)
    assert "crc mismatch" in run(etcd, "verify", tmp_path / "wal", 0, 0)
    with pytest.raises(CorruptionError, match=rf"{first.name}: a damaged record at offset \d+: checksum 0x[0-9a-f]+, expected 0x[0-9a-f]+"):
        read_ours(tmp_path)
    assert files(tmp_path) == before
    assert not list((tmp_path / "wal").glob("*.broken"))
