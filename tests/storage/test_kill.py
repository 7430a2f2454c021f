"""A process that is killed: what it had acknowledged is there when its directory is opened again, on a real disk."""

from __future__ import annotations

import importlib.util
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rafttoy.ports import Ports
from rafttoy.storage import Identity, make_storage
from tests.storage.beds import RealBed

pytestmark = pytest.mark.real

KINDS = ["file+leveldb", "etcd+mem", "leveldb", "rocksdb"]
ROOT = Path(__file__).parents[2]

WRITER = """
import sys
from pathlib import Path
from rafttoy.raft.types import HardState
from rafttoy.storage import Identity, make_storage
from tests.storage.beds import RealBed, proposals

async def scenario(ports):
    wal, _, engine = sys.argv[2].partition("+")
    kind = {"storage": "split", "wal": wal, "engine": engine} if engine else {"storage": wal}
    storage = make_storage(ports, **kind, identity=Identity(1, sys.argv[2]), segment_bytes=1 << 18)
    await storage.open()
    while True:
        first = storage.log.last_index() + 1
        entries = [proposals(first, [(b"\\x01%08d" % i, b"v" * 200) for i in range(first, first + 20)])]
        await storage.save(entries, HardState(1, 1, first + 19), sync=True)
        await storage.apply(entries)
        print(first + 19, flush=True)

RealBed(Path(sys.argv[1])).run(scenario)
"""


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_acknowledged_outlives_its_process(tmp_path: Path, kind: str) -> None:
    if "rocksdb" in kind and importlib.util.find_spec("rocksdict") is None:
        pytest.skip("rocksdict is not installed (an extra)")
    acknowledged = 0
    for incarnation in range(2):
        with subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), kind], stdout=subprocess.PIPE, text=True, cwd=ROOT) as writer:
            assert writer.stdout is not None
            for _ in range(30 - 25 * incarnation):
                line = writer.stdout.readline()
                assert line, "the writer failed"
                acknowledged = int(line)
            writer.send_signal(signal.SIGKILL)
            for line in writer.stdout:
                if line.endswith("\n"):
                    acknowledged = int(line)
        assert reopen(tmp_path, kind) >= acknowledged


def reopen(root: Path, kind: str) -> int:
    """The last index of the log, whose entries are all there and are the content."""

    async def scenario(ports: Ports) -> int:
        wal, _, engine = kind.partition("+")
        settings = {"storage": "split", "wal": wal, "engine": engine} if engine else {"storage": wal}
        storage = make_storage(ports, **settings, identity=Identity(1, kind), segment_bytes=1 << 18)  # type: ignore[arg-type]
        recovered = await storage.open()
        log = storage.log
        last = log.last_index()
        assert recovered.applied <= last
        assert recovered.hard_state.commit <= last
        entries = await storage.read_log(1, last + 1)
        expected = [b"\x01%08d" % i for i in range(1, last + 1)]
        assert [data[16:25] for batch in entries for data in batch.payloads()] == expected
        await storage.apply([batch.slice(recovered.applied + 1, last + 1) for batch in entries if batch.last > recovered.applied])
        digest = await storage.digest()
        await storage.close()
        assert len(digest) == 32
        return last

    return RealBed(root).run(scenario)
