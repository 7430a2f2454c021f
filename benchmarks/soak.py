"""Whether memory stays bounded: one cell at full load for minutes, and the resident memory of each of its processes meanwhile.

    python benchmarks/soak.py --duration 10m
    python benchmarks/soak.py --pipeline async-storage --wal etcd --transport grpc --conc 4096 --duration 30m --into rss.csv

Takes the flags of `rafttoy bench`, with other defaults, for one cell. Growth is the slope of a least-squares line through the second half
of the run: what fills up first (caches, write buffers, the part of the log that is kept) has its time to do so. Ends with status 1 if a
process grows by more than `--max-growth` MB a minute. Beside all resident memory stands its anonymous part, without files that are mapped,
which the system takes back when it likes. `--small` is its own test.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import msgspec
import numpy as np

from rafttoy.analysis.formats import human_count
from rafttoy.analysis.sweep import Job, bench_command
from rafttoy.cell import Cell, Plan
from rafttoy.cli.console import progress, run_script
from rafttoy.cli.options import Request, grid_options
from rafttoy.cli.types import DURATION, PERCENT
from rafttoy.errors import CheckFailed, ConfigError, RunError

DEFAULTS = {"transport": "tcp", "conc": "1024", "duration": "10m", "warmup": "10s"}
GRACE_SECONDS = 120.0
"""What a run may take beyond its measured time: to start, to be elected, to end."""

_MB = 1e6


class Sample(msgspec.Struct, frozen=True):
    """Resident memory of one process, in bytes, `seconds` after the first look; `anonymous` is the part that is no file's."""

    seconds: float
    all: int
    anonymous: int


def read_memory(pid: int) -> tuple[int, int]:
    """(all, anonymous), in bytes. Raises OSError where that process is gone."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    if "VmRSS" not in fields:
        raise ProcessLookupError(pid)  # a zombie
    return tuple(int(fields[name].split()[0]) * 1024 for name in ("VmRSS", "RssAnon"))  # type: ignore[return-value]


def processes_of(pid: int) -> dict[int, str]:
    """{pid: name} of a benchmark and the peers that it started, which write their last words to files of their names."""
    found = {pid: "bench"}
    with contextlib.suppress(OSError):
        for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            with contextlib.suppress(OSError):
                last_words = Path(f"/proc/{word}/fd/2").readlink()
                if last_words.suffix == ".err":
                    found[int(word)] = last_words.stem
    return found


def watch(process: subprocess.Popen[bytes], every_s: float, timeout_s: float, moved: Callable[[float], None]) -> dict[str, list[Sample]]:
    """Samples of all processes, by name, until `process` ends. RunError if it has not within `timeout_s`."""
    samples: dict[str, list[Sample]] = {}
    begun = time.monotonic()
    while True:
        now = time.monotonic() - begun
        for pid, name in processes_of(process.pid).items():
            with contextlib.suppress(OSError):
                samples.setdefault(name, []).append(Sample(now, *read_memory(pid)))
        moved(now)
        if now > timeout_s:
            raise RunError(f"not done after {timeout_s:g} s")
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(every_s)
            return samples


def growth_mb_per_min(samples: Sequence[Sample], of: str = "all") -> float:
    """Slope of the least-squares line through the second half of the time; 0 where there are fewer than three samples in it."""
    middle = (samples[0].seconds + samples[-1].seconds) / 2
    late = [sample for sample in samples if sample.seconds >= middle]
    if len(late) < 3:
        return 0.0
    return float(np.polyfit([sample.seconds / 60 for sample in late], [getattr(sample, of) / _MB for sample in late], 1)[0])


def in_load(samples: Mapping[str, Sequence[Sample]], warmup_s: float) -> dict[str, list[Sample]]:
    """Those of the time in which there were peers under load: without start and warm-up, and without each peer's last, which it may have
    been giving its memory back at."""
    peers = [series[:-1] for name, series in samples.items() if name != "bench" and len(series) > 1]
    if not peers:
        raise RunError("no process to watch: the run was over before the first look")
    first, last = max(series[0].seconds for series in peers) + warmup_s, min(series[-1].seconds for series in peers)
    kept = {name: [sample for sample in series if first <= sample.seconds <= last] for name, series in samples.items()}
    if any(len(series) < 6 for series in kept.values()):
        raise RunError("fewer than six looks at a process: a longer --duration, or a shorter --every")
    return kept


def run(cell: Cell, plan: Plan, data_dir: Path | None, every_s: float) -> tuple[dict[str, Any], dict[str, list[Sample]]]:
    """The result, and what was seen meanwhile. Raises RunError if the run failed."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAFTTOY_")}
    whole_s = plan.warmup_seconds + plan.seconds
    with tempfile.TemporaryFile() as out, progress("soaking") as moving:
        process = subprocess.Popen(bench_command(Job(cell, plan), data_dir), stdout=out, env=environment)
        try:
            samples = watch(process, every_s, whole_s + GRACE_SECONDS, lambda now: moving(str(cell), min(1.0, now / whole_s)))
        except BaseException:
            process.terminate()
            process.wait()
            raise
        if process.returncode:
            raise RunError(f"rafttoy bench ended with status {process.returncode}")
        out.seek(0)
        return msgspec.json.decode(out.read()), in_load(samples, plan.warmup_seconds)


def report(samples: Mapping[str, Sequence[Sample]]) -> list[str]:
    """Lines of a table in Markdown: MB at the beginning, at the end, and at most; MB a minute in the second half."""
    headings = ["process", "first MB", "last MB", "most MB", "growth MB/min", "anonymous, first MB", "last MB", "growth MB/min"]
    lines = [f"| {' | '.join(headings)} |", f"| --- |{' ---: |' * (len(headings) - 1)}"]
    for name, series in sorted(samples.items()):
        cells = [name, f"{series[0].all / _MB:.1f}", f"{series[-1].all / _MB:.1f}", f"{max(sample.all for sample in series) / _MB:.1f}"]
        cells += [f"{growth_mb_per_min(series):+.2f}", f"{series[0].anonymous / _MB:.1f}", f"{series[-1].anonymous / _MB:.1f}"]
        cells.append(f"{growth_mb_per_min(series, 'anonymous'):+.2f}")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def check_bound(samples: Mapping[str, Sequence[Sample]], max_growth: float) -> None:
    """Raises CheckFailed, naming each process whose resident memory grew by more than `max_growth` MB a minute."""
    grown = {name: growth for name, series in samples.items() if (growth := growth_mb_per_min(series)) > max_growth}
    if grown:
        said = ", ".join(f"{name} by {growth:.2f} MB/min" for name, growth in sorted(grown.items()))
        raise CheckFailed(f"memory grew by more than {max_growth:g} MB a minute: {said}")


@click.command(context_settings={"default_map": DEFAULTS})
@grid_options("markdown")
@click.option("--every", type=DURATION, default="2s", show_default=True, help="Between two looks at the processes.")
@click.option("--max-growth", type=PERCENT, default=1.0, show_default=True, metavar="MB", help="What a process may grow by in a minute.")
@click.option("--into", type=click.Path(path_type=Path, dir_okay=False), help="A CSV file of all samples.")
@click.option("--small", is_flag=True, help="Three seconds, with a look every tenth of one.")
def main(request: Request, every: float, max_growth: float, into: Path | None, small: bool) -> None:
    """Run a cell at full load and watch its memory."""
    if len(request.cells) > 1:
        raise ConfigError(f"one cell is soaked at a time, not {len(request.cells)}")
    (cell,), plan = request.cells, request.plan
    if cell.engine == "mem":
        raise ConfigError("--engine mem holds all that was ever applied: its memory has no bound")
    if small:
        plan, every = msgspec.structs.replace(plan, seconds=3.0, warmup_seconds=0.5), 0.1
    result, samples = run(cell, plan, request.data_dir, every)
    if into is not None:
        rows = [f"{name},{s.seconds:.3f},{s.all},{s.anonymous}" for name, series in samples.items() for s in series]
        into.write_text("\n".join(["process,seconds,all_bytes,anonymous_bytes", *rows, ""]), encoding="utf-8")
    click.echo(f"{cell}: {human_count(result['ops_per_s'])} ops/s for {result['seconds']:.0f} s, binding {result['binding']}\n")
    for line in report(samples):
        click.echo(line)
    check_bound(samples, max_growth)


if __name__ == "__main__":
    run_script(main)
