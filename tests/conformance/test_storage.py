"""The contract of storages: every log, every engine and every combined store, in both worlds."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rafttoy.errors import StorageError
from rafttoy.ports import Ports
from rafttoy.raft.types import HardState
from rafttoy.storage import ENGINES, STORAGES, WALS, Storage, make_storage
from tests.conformance.storage import check_storage
from tests.storage.beds import RealBed, SimBed, batch

ROCKSDB = importlib.util.find_spec("rocksdict") is not None

KINDS: dict[str, dict[str, str]] = {
    **{f"{wal}+{engine}": {"storage": "split", "wal": wal, "engine": engine} for wal in (*WALS, "mem:1ms") for engine in ENGINES},
    **{name: {"storage": name} for name in STORAGES if name != "split"},
}


def maker(kind: dict[str, str]) -> Callable[..., Storage]:
    def make(ports: Ports, **options: Any) -> Storage:
        return make_storage(ports, **kind, segment_bytes=1 << 20, **options)  # type: ignore[arg-type]

    return make


@pytest.mark.parametrize("kind", KINDS)
def test_simulated_storage(kind: str) -> None:
    check_storage(lambda: SimBed().run, maker(KINDS[kind]))


# every log, every engine and every combined store, but not each with each: that, the model shows
REAL_KINDS = [kind for kind in KINDS if kind.endswith("+mem") or kind.startswith("file+") or "+" not in kind]


@pytest.mark.real
@pytest.mark.parametrize("kind", REAL_KINDS)
def test_real_storage(tmp_path: Path, kind: str) -> None:
    if "rocksdb" in kind and not ROCKSDB:
        pytest.skip("rocksdict is not installed (an extra)")
    made = iter(range(1000))
    check_storage(lambda: RealBed(tmp_path / str(next(made)), "none").run, maker(KINDS[kind]))


@pytest.mark.parametrize("fault", ["fail_sync", "fail_write"])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.startswith("mem")])
def test_after_a_failed_sync_or_write_nothing_is_acknowledged(kind: str, fault: str) -> None:
    bed = SimBed()

    async def scenario(ports: Ports) -> None:
        storage = make_storage(ports, **KINDS[kind])
        await storage.open()
        await storage.save([batch(1, 5)], HardState(1, 1, 0), sync=True)
        await ports.clock.sleep_ns(1_000_000_000)  # what is prepared ahead is ready
        setattr(bed.faults, fault, 0)
        outcomes: list[str] = []

        async def save(first: int) -> None:
            try:
                await storage.save([batch(first, 5)], None, sync=True)
            except StorageError as error:
                outcomes.append(str(error))
            else:
                outcomes.append("acknowledged")

        for i in range(4):  # one leads, the others wait for it
            ports.tasks.spawn(save(6 + 5 * i), "save")
        await ports.clock.sleep_ns(1_000_000_000)
        await save(6)
        await save(26)
        assert len(outcomes) == 6
        assert "acknowledged" not in outcomes
        assert "Input/output error" in outcomes[0]
        assert all("nothing is written after a failure" in outcome for outcome in outcomes[1:])
        assert storage.log.last_index() == 5
        await storage.close()

    bed.run(scenario)

    async def again(ports: Ports) -> int:
        storage = make_storage(ports, **KINDS[kind])
        await storage.open()
        await storage.close()
        return storage.log.last_index()

    assert bed.run(again) in (5, 10)  # what was acknowledged, and perhaps what was under way
