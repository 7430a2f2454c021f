"""Whose directory it is: what is refused, with which words, and that a refusal changes nothing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from rafttoy.errors import ConfigError, RafttoyError, StorageError
from rafttoy.ports import Ports
from rafttoy.raft.types import HardState
from rafttoy.storage import Identity, Recovered, make_storage
from tests.storage.beds import RealBed, SimBed, batch, proposals

KIND = {"storage": "split", "wal": "file", "engine": "leveldb"}
SEGMENT = 1 << 16


def live(bed: Any, identity: Identity, kind: dict[str, str] = KIND, *, write: bool = True) -> Recovered:
    async def scenario(ports: Ports) -> Recovered:
        storage = make_storage(ports, **kind, identity=identity, segment_bytes=SEGMENT)  # type: ignore[arg-type]
        recovered = await storage.open()
        if write:
            entries = [proposals(storage.log.last_index() + 1, [(b"\x01key", b"value")])]
            await storage.save(entries, HardState(1, 1, entries[0].last), sync=True)
            await storage.apply(entries)
        await storage.close()
        return recovered

    result: Recovered = bed.run(scenario)
    return result


def tree(bed: SimBed) -> dict[str, bytes]:
    return {name: bytes(inode.content) for name, inode in bed.store.files.items()}


def refused(bed: SimBed, identity: Identity, error: type[RafttoyError], match: str, kind: dict[str, str] = KIND) -> None:
    before = tree(bed)
    with pytest.raises(error, match=match):
        live(bed, identity, kind)
    assert tree(bed) == before


def test_a_directory_is_reopened_by_its_node() -> None:
    bed = SimBed()
    assert live(bed, Identity(1, "file+leveldb")).fresh
    for count in (1, 2):
        recovered = live(bed, Identity(1, "file+leveldb"))
        assert (recovered.fresh, recovered.applied, recovered.hard_state.commit) == (False, count, count)


def test_another_nodes_directory_is_refused() -> None:
    bed = SimBed()
    live(bed, Identity(1, "file+leveldb"))
    refused(bed, Identity(2, "file+leveldb"), ConfigError, "^sim belongs to node 1, not to node 2$")
    refused(bed, Identity(2, "file+leveldb", fresh=True), ConfigError, "belongs to node 1")


def test_another_storages_directory_is_refused() -> None:
    bed = SimBed()
    live(bed, Identity(1, "file+leveldb"))
    refused(
        bed,
        Identity(1, "etcd+leveldb"),
        ConfigError,
        r"^sim holds a storage file\+leveldb, not etcd\+leveldb: give those, another directory, or --fresh$",
        {**KIND, "wal": "etcd"},
    )


def test_another_format_is_refused() -> None:
    bed = SimBed()
    live(bed, Identity(1, "file+leveldb"))
    bed.store.files["IDENTITY"].content[:] = bed.store.files["IDENTITY"].content.replace(b'"format":1', b'"format":2')
    refused(bed, Identity(1, "file+leveldb"), StorageError, "^sim has format 2; this version reads format 1$")


@pytest.mark.parametrize("content", [b"", b"node 1", b'{"format":1}', b'{"format":"1","node":1,"storage":"x"}', b"\xff\xfe"])
def test_an_identity_that_is_none_is_refused(content: bytes) -> None:
    bed = SimBed()
    live(bed, Identity(1, "file+leveldb"))
    inode = bed.store.files["IDENTITY"]
    inode.content[:], inode.size = content, len(content)
    refused(bed, Identity(1, "file+leveldb"), StorageError, "^sim/IDENTITY: ")


def test_a_directory_of_somebody_else_is_refused() -> None:
    bed = SimBed()
    bed.run(lambda ports: ports.files.open("thesis.tex", create=True))
    refused(bed, Identity(1, "file+leveldb"), ConfigError, "^sim was not made by rafttoy: it holds thesis.tex and no IDENTITY$")
    refused(bed, Identity(1, "file+leveldb", fresh=True), ConfigError, "was not made by rafttoy")
    assert list(bed.store.files) == ["thesis.tex"]


def test_a_crash_while_it_is_made_leaves_it_ours_to_make() -> None:
    bed = SimBed()
    for name in ("LOCK", "IDENTITY.tmp"):
        bed.run(lambda ports, name=name: ports.files.open(name, create=True))
    assert live(bed, Identity(1, "file+leveldb")).fresh


@pytest.mark.parametrize("kind", ["file+leveldb", "etcd+mem", "leveldb"])
def test_fresh_starts_over_and_keeps_what_is_not_ours(kind: str) -> None:
    bed = SimBed()
    for _ in range(3):
        live(bed, Identity(1, "file+leveldb"))
    bed.run(lambda ports: ports.files.open("notes.txt", create=True))
    bed.store.flip("wal/0000000000000001.wal", 0)  # not even readable any more
    wal, _, engine = kind.partition("+")
    settings = {"storage": "split", "wal": wal, "engine": engine} if engine else {"storage": kind}
    recovered = live(bed, Identity(1, kind, fresh=True), settings)
    assert (recovered.fresh, recovered.applied) == (True, 0)
    assert "notes.txt" in bed.store.files
    assert live(bed, Identity(1, kind), settings).hard_state.commit == 1


def test_a_lock_is_taken_before_anything_is_read() -> None:
    bed = SimBed()
    live(bed, Identity(1, "file+leveldb"))
    other = SimBed(bed.store)

    async def hold(ports: Ports) -> None:
        await ports.files.lock()
        refused(other, Identity(1, "file+leveldb"), StorageError, "^sim: the directory is in use by another peer$")

    bed.run(hold)


# --- on a real disk ---


@pytest.mark.real
@pytest.mark.parametrize("kind", [KIND, {"storage": "leveldb"}, {"storage": "split", "wal": "etcd", "engine": "mem"}])
def test_real_directories_are_reopened_started_over_and_never_removed(tmp_path: Path, kind: dict[str, str]) -> None:
    name = kind["storage"] if kind["storage"] != "split" else f"{kind['wal']}+{kind['engine']}"
    root = tmp_path / "a" / "b"
    bed = RealBed(root)
    assert live(bed, Identity(3, name), kind).fresh
    assert live(bed, Identity(3, name), kind).hard_state.commit == 1
    (root / "notes.txt").write_text("mine")
    assert live(bed, Identity(3, name, fresh=True), kind).fresh
    assert (root / "notes.txt").read_text() == "mine"
    with pytest.raises(ConfigError, match=f"{root} belongs to node 3, not to node 1"):
        live(bed, Identity(1, name), kind)


@pytest.mark.real
def test_a_real_directory_of_somebody_else_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "1.jpg").write_bytes(b"jpg")
    with pytest.raises(ConfigError, match="was not made by rafttoy: it holds photos"):
        live(RealBed(tmp_path), Identity(1, "file+leveldb", fresh=True))
    assert [path.name for path in tmp_path.rglob("*")] == ["photos", "1.jpg"]


@pytest.mark.real
@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_directory_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match=f"{tmp_path}.*: Permission denied"):
        live(RealBed(tmp_path / "data"), Identity(1, "file+leveldb"))


@pytest.mark.real
def test_a_directory_that_cannot_be_one_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    with pytest.raises(StorageError, match=rf"{tmp_path / 'data'}.*: (Not a directory|File exists)"):
        live(RealBed(tmp_path / "data"), Identity(1, "file+leveldb"))


def test_entries_without_an_identity_go_to_a_scratch_directory() -> None:
    bed = SimBed()

    async def scenario(ports: Ports) -> int:
        storage = make_storage(ports, **KIND, segment_bytes=SEGMENT)  # type: ignore[arg-type]
        await storage.open()
        await storage.save([batch(1, 3)], None, sync=True)
        await storage.close()
        return storage.log.last_index()

    assert bed.run(scenario) == 3
    assert "IDENTITY" not in bed.store.files
