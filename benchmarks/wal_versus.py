"""Our `--wal etcd` beside etcd's own (its Go package), and `--wal file` beside both: `python -m benchmarks.wal_versus [DIRECTORY]`.

The same batches, one save after another, in turns on the same disk; the figure is the median over the turns of the mean time a batch,
and the ratio that of the same turn. `depth 2` has a second save under way while the first is at the device. Needs Go.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from rafttoy.analysis.walbench import WalCell, save_batches
from rafttoy.worlds import RealBench

_SOURCE = Path(__file__).parents[1] / "tests" / "storage" / "etcd"
_CELLS = ((1, 256), (16, 256), (128, 256), (256, 256), (1024, 256), (128, 4096), (16, 32768))
_OURS = (("etcd", 1), ("etcd", 2), ("file", 1), ("file", 2))


def build(target: Path) -> Path:
    go = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
    if go is None:
        sys.exit("Go is not installed: etcd's own log cannot be run")
    subprocess.run([go, "build", "-o", target, "."], cwd=_SOURCE, check=True)
    return target


def theirs(program: Path, directory: Path, batch: int, size: int, count: int) -> float:
    """Mean time of a save, in µs."""
    with tempfile.TemporaryDirectory(dir=directory) as root:
        command = [str(program), "bench", f"{root}/wal", str(batch), str(size), str(count)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    return statistics.mean(map(int, done.stdout.split())) / 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("directory", nargs="?", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--saves", type=int, default=150, help="a turn")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.directory) as root, RealBench(arguments.directory) as bench:
        program = build(Path(root) / "etcdwal")
        print(f"{'batch':>6} {'bytes':>6} {'etcd (Go)':>10}" + "".join(f"{f'{wal} depth {depth}':>24}" for wal, depth in _OURS))
        for batch, size in _CELLS:
            go: list[float] = []
            ours: dict[tuple[str, int], list[float]] = {kind: [] for kind in _OURS}
            for _ in range(arguments.turns):
                go.append(theirs(program, Path(root), batch, size, arguments.saves))
                for wal, depth in _OURS:
                    ours[wal, depth].append(save_batches(bench, WalCell(wal, batch, size), depth, arguments.saves))
            cells = [f"{batch:6} {size:6} {statistics.median(go):7.0f} µs"]
            for times in ours.values():
                ratio = statistics.median(mine / original for mine, original in zip(times, go, strict=True))
                cells.append(f"{statistics.median(times):13.0f} µs {ratio:5.2f} x")
            print(" ".join(cells), flush=True)


if __name__ == "__main__":
    main()
