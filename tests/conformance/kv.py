"""What a key-value store promises. `check_kv` is run against every kind in every world."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from rafttoy.errors import ConfigError
from rafttoy.ports import KvStores, Ports
from tests.conformance.files import Incarnations

__all__ = ["check_kv", "check_kv_survives"]

Clause = Callable[[KvStores, str], Awaitable[None]]
_CLAUSES: list[Clause] = []


def check_kv(make: Callable[[], Incarnations], kind: str) -> None:
    """`make` gives each clause a directory of its own."""
    for clause in _CLAUSES:
        try:
            make()(lambda ports, clause=clause: clause(ports.kv, kind))
        except BaseException as error:
            error.add_note(f"clause: {clause.__name__}")
            raise


def _clause(check: Clause) -> Clause:
    _CLAUSES.append(check)
    return check


@_clause
async def _what_was_put_is_got(kv: KvStores, kind: str) -> None:
    store = await kv.open(kind, "store")
    assert await store.get(b"a") is None
    for sync in (False, True):
        batch = store.batch()
        batch.put(b"a", b"1%d" % sync)
        batch.put(b"b", bytearray(b"2"))
        batch.put(b"c", memoryview(b"345")[:2])
        await store.write(batch, sync=sync)
        assert [await store.get(key) for key in (b"a", b"b", b"c", b"d")] == [b"1%d" % sync, b"2", b"34", None]
    await store.close()


@_clause
async def _writes_are_in_order_whoever_carries_them_out(kv: KvStores, kind: str) -> None:
    """On the loop or beside it: small ones that someone has nothing to do but wait for, among others."""
    store = await kv.open(kind, "store")
    begun = []
    for i, (nbytes, sync, here) in enumerate([(1, True, True), (9000, True, True), (1, True, True), (1, False, False), (1, True, True)]):
        batch = store.batch()
        batch.put(b"a", b"%d" % i * nbytes)
        batch.put(b"%d" % i, b"x")
        begun.append(store.write(batch, sync=sync, here=here))
    for write in begun:
        await write
    assert await store.get(b"a") == b"4"
    assert [key for key, _ in await store.scan(b"0", b"9")] == [b"0", b"1", b"2", b"3", b"4"]
    await store.close()


@_clause
async def _operations_of_a_batch_count_in_order(kv: KvStores, kind: str) -> None:
    store = await kv.open(kind, "store")
    batch = store.batch()
    batch.put(b"a", b"early")
    batch.delete(b"a")
    batch.put(b"b", b"early")
    batch.put_many(iter([(b"b", b"many"), (b"c", b"many"), (b"d", b"many")]), 3, 15)
    batch.put(b"c", b"late")
    batch.delete(b"d")
    batch.delete(b"nothing")
    batch.put_many(iter([(b"e", b"more")]), 1, 5)
    await store.write(batch, sync=True)
    assert await store.scan(b"a", b"z") == [(b"b", b"many"), (b"c", b"late"), (b"e", b"more")]
    await store.close()


@_clause
async def _the_newest_value_of_a_key_counts_however_much_was_put_since(kv: KvStores, kind: str) -> None:
    store = await kv.open(kind, "store")
    keys = [i.to_bytes(3, "big") for i in range(50_000)]
    for round in range(3):
        batch = store.batch()
        batch.put_many(iter([(key, b"%d" % round) for key in keys[10_000 * round :]]), len(keys) - 10_000 * round, 4 * len(keys))
        await store.write(batch, sync=False)
    batch = store.batch()
    batch.delete(keys[5])
    batch.delete(keys[-1])
    await store.write(batch, sync=False)
    assert [await store.get(keys[at]) for at in (0, 5, 9_999, 10_000, 20_000, -2, -1)] == [b"0", None, b"0", b"1", b"2", b"2", None]
    expected = [(key, b"%d" % min(2, at // 10_000)) for at, key in enumerate(keys) if at not in (5, len(keys) - 1)]
    assert await store.scan(b"", b"\xff") == expected
    await store.close()


@_clause
async def _a_scan_is_sorted_and_half_open(kv: KvStores, kind: str) -> None:
    store = await kv.open(kind, "store")
    keys = [bytes((i, j)) for i in (3, 1, 2) for j in (0, 255, 7)]
    batch = store.batch()
    batch.put_many(iter([(key, key * 2) for key in keys]), len(keys), 6 * len(keys))
    await store.write(batch, sync=False)
    assert await store.scan(b"", b"\xff") == [(key, key * 2) for key in sorted(keys)]
    assert [key for key, _ in await store.scan(b"\x01\x07", b"\x02\x07")] == [b"\x01\x07", b"\x01\xff", b"\x02\x00"]
    assert await store.scan(b"\x04", b"\x05") == []
    await store.close()


@_clause
async def _an_empty_batch_is_fine(kv: KvStores, kind: str) -> None:
    store = await kv.open(kind, "store")
    await store.write(store.batch(), sync=False)
    await store.write(store.batch(), sync=True)
    await store.close()
    await store.close()


@_clause
async def _large_values_and_many_keys(kv: KvStores, kind: str) -> None:
    store = await kv.open(kind, "store")
    batch = store.batch()
    batch.put(b"large", bytes(1 << 20))
    await store.write(batch, sync=False)
    pairs = [(b"k%05d" % i, b"v" * 100) for i in range(5000)]
    batch = store.batch()
    batch.put_many(iter(pairs), 5000, 5000 * 106)
    await store.write(batch, sync=False)
    assert await store.get(b"large") == bytes(1 << 20)
    assert await store.scan(b"k", b"l") == pairs
    await store.close()


@_clause
async def _stores_of_one_peer_are_apart(kv: KvStores, kind: str) -> None:
    one, two = await kv.open(kind, "one"), await kv.open(kind, "two")
    batch = one.batch()
    batch.put(b"a", b"1")
    await one.write(batch, sync=False)
    assert await two.get(b"a") is None
    await one.close()
    await two.close()


@_clause
async def _a_destroyed_store_is_empty(kv: KvStores, kind: str) -> None:
    await kv.destroy(kind, "store")
    store = await kv.open(kind, "store")
    batch = store.batch()
    batch.put(b"a", b"1")
    await store.write(batch, sync=True)
    await store.close()
    await kv.destroy(kind, "store")
    store = await kv.open(kind, "store")
    assert await store.scan(b"", b"\xff") == []
    await store.close()


@_clause
async def _an_unknown_kind_is_the_users_error(kv: KvStores, kind: str) -> None:
    with pytest.raises(ConfigError, match="lmdb"):
        await kv.open("lmdb", "store")


def check_kv_survives(run: Incarnations, kind: str) -> None:
    """For durable kinds: content outlives its incarnation."""

    async def write(ports: Ports) -> None:
        store = await ports.kv.open(kind, "store")
        for i in range(10):
            batch = store.batch()
            batch.put(b"k%d" % i, b"v%d" % i)
            batch.delete(b"k%d" % (i - 5))
            await store.write(batch, sync=i == 9)
        await store.close()

    async def read(ports: Ports) -> None:
        store = await ports.kv.open(kind, "store")
        assert await store.scan(b"", b"\xff") == [(b"k%d" % i, b"v%d" % i) for i in range(5, 10)]
        await store.close()

    run(write)
    run(read)
