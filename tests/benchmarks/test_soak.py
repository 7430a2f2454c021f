"""Whether memory stays bounded: the slope, who is looked at, and the smallest run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import soak
from benchmarks.soak import Sample
from rafttoy.errors import CheckFailed, RunError

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
MB = 1_000_000


def series(*megabytes: float, every_s: float = 1.0) -> list[Sample]:
    return [Sample(i * every_s, int(value * MB), int(value * MB) // 2) for i, value in enumerate(megabytes)]


def test_growth_is_the_slope_of_the_second_half() -> None:
    assert soak.growth_mb_per_min(series(*range(10), *[10.0] * 11)) == pytest.approx(0.0, abs=1e-9)  # what fills up first
    steady = series(*(100 + i / 60 for i in range(60)))
    assert soak.growth_mb_per_min(steady) == pytest.approx(1.0, abs=1e-3)
    assert soak.growth_mb_per_min(steady, "anonymous") == pytest.approx(0.5, abs=1e-3)
    late = series(*[50.0] * 100, *(50 + i / 30 for i in range(100)))
    assert soak.growth_mb_per_min(late) == pytest.approx(2.0, abs=1e-3)
    saw = series(*(100 + i % 2 for i in range(200)))
    assert abs(soak.growth_mb_per_min(saw)) < 0.1
    assert soak.growth_mb_per_min(series(1, 2, 3, 4, every_s=10.0)) == 0.0  # two looks are no line


def test_those_that_grow_faster_than_the_bound_are_named() -> None:
    seen = {"peer-2": series(*(50 + i / 30 for i in range(100))), "peer-1": series(*[50.0] * 100), "bench": series(*range(100))}
    with pytest.raises(CheckFailed, match=r"more than 1 MB a minute: bench by 60\.00 MB/min, peer-2 by 2\.00 MB/min$"):
        soak.check_bound(seen, 1.0)
    soak.check_bound(seen, 61.0)


def test_only_the_time_under_load_counts() -> None:
    """The parent is there before and after its peers."""
    peer = [Sample(float(second), second * MB, 0) for second in range(5, 31)]
    seen = soak.in_load({"bench": series(*range(40)), "peer-1": peer, "peer-2": peer[1:-2]}, warmup_s=4.0)
    assert {name: (found[0].seconds, found[-1].seconds) for name, found in seen.items()} == {
        "bench": (10.0, 27.0),
        "peer-1": (10.0, 27.0),
        "peer-2": (10.0, 27.0),
    }
    with pytest.raises(RunError, match="no process to watch"):
        soak.in_load({"bench": series(1, 2, 3)}, 0.0)
    with pytest.raises(RunError, match="fewer than six looks"):
        soak.in_load({"bench": series(*range(40)), "peer-1": peer[:9]}, 4.0)


GROWING = """
import subprocess, sys, time
child = "import time\\nkept = []\\nfor _ in range(20): kept.append(bytearray(b'x' * 1000000)); time.sleep(0.05)"
with open(sys.argv[1], "w") as words, open(sys.argv[2], "w") as others:
    watched = subprocess.Popen([sys.executable, "-c", child], stderr=words)
    other = subprocess.Popen([sys.executable, "-c", child], stderr=others)
    watched.wait(), other.wait()
"""


def test_a_process_that_grows_is_seen_to(tmp_path: Path) -> None:
    """By its real memory: a child that writes its last words to a peer's file, beside another that does not."""
    process = subprocess.Popen([sys.executable, "-c", GROWING, tmp_path / "peer-7.err", tmp_path / "other"])
    moved: list[float] = []
    seen = soak.watch(process, 0.05, 60.0, moved.append)
    assert process.returncode == 0
    assert set(seen) == {"bench", "peer-7"}
    assert moved == sorted(moved)
    child = seen["peer-7"][:-1]  # at the last one it may have been about to end
    assert 15 * MB < max(sample.all for sample in child) - min(sample.all for sample in child) < 60 * MB
    assert all(0 < sample.anonymous < sample.all for sample in child)
    assert soak.growth_mb_per_min(child) > 60  # 20 MB in about a second
    assert soak.growth_mb_per_min(seen["bench"]) < 60


def test_one_that_does_not_end_is_told_of() -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        with pytest.raises(RunError, match=r"not done after 0\.2 s"):
            soak.watch(process, 0.05, 0.2, lambda now: None)
    finally:
        process.kill()
        process.wait()


def test_memory_of_this_process() -> None:
    found, anonymous = soak.read_memory(os.getpid())
    assert 10 * MB < anonymous < found
    with pytest.raises(OSError):
        soak.read_memory(2**22 + 1)


def run(*more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "benchmarks/soak.py", "--small", "--connect-timeout", "60s", *more]
    return subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.real
def test_the_smallest_run_watches_every_process_and_judges_it(tmp_path: Path) -> None:
    """In its first seconds a peer fills its caches or gives a flushed buffer back: the verdict is that of the table, whichever it was."""
    into = tmp_path / "rss.csv"
    done = run("--into", str(into))
    growth = dict(re.findall(r"^\| (bench|peer-\d) (?:\| [\d.]+ ){3}\| ([+-][\d.]+) \|", done.stdout, re.MULTILINE))
    grown = [f"{name} by {float(growth[name]):.2f} MB/min" for name in sorted(growth) if float(growth[name]) > 1]
    assert done.returncode == (1 if grown else 0), done.stderr
    assert not grown or f"memory grew by more than 1 MB a minute: {', '.join(grown)}" in done.stderr, done.stderr
    assert re.search(r"^parallel-append file\+leveldb tcp conc=1024 .*: [\d,]+ ops/s for 3 s, binding ", done.stdout)
    assert re.findall(r"^\| (bench|peer-\d) \|", done.stdout, re.MULTILINE) == ["bench", "peer-1", "peer-2", "peer-3"]
    header, *rows = into.read_text().splitlines()
    assert header == "process,seconds,all_bytes,anonymous_bytes"
    assert len(rows) >= 4 * 6
    assert run("--max-growth", "1000000", "--transport", "mem").returncode == 0


@pytest.mark.parametrize(
    ("flags", "said"), [(("--conc", "1,2"), "one cell is soaked at a time, not 2"), (("--engine", "mem"), "its memory has no bound")]
)
def test_what_cannot_be_soaked(flags: tuple[str, ...], said: str) -> None:
    done = run(*flags)
    assert done.returncode == 2
    assert said in done.stderr
