"""The random cluster of the tests, for as many seeds as you like.

    python benchmarks/raft_seeds.py --start 0 --count 100000            on all cores; resumes where it stopped
    python benchmarks/raft_seeds.py --start 4711 --count 1 --jobs 1     one seed, to look at

Progress is kept in --state (a file of finished ranges); the same command goes on from there. A seed that breaks an invariant is printed
with what it broke, and the exit status is 1. The last line gives a hash over all traces: it must not depend on the machine.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.raft.cluster import run

CHUNK = 250


def run_chunk(seeds: range) -> tuple[int, int, str, list[tuple[int, str]]]:
    """(first seed, how many, hash over their traces, what broke)."""
    traces, broken = hashlib.blake2b(digest_size=16), []
    for seed in seeds:
        try:
            traces.update(run(seed).encode())
        except Exception as error:  # noqa: BLE001 (anything is a finding)
            broken.append((seed, f"{type(error).__name__}: {error}"))
    return seeds.start, len(seeds), traces.hexdigest(), broken


def chunks(start: int, count: int, done: dict[str, str]) -> Iterator[range]:
    """What is left to do. A chunk that broke is done again: it may have been mended."""
    for first in range(start, start + count, CHUNK):
        seeds = range(first, min(first + CHUNK, start + count))
        if f"{seeds.start}+{len(seeds)}" not in done:
            yield seeds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--start", type=int, default=0, help="first seed")
    parser.add_argument("--count", type=int, default=1000, help="how many")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--state", type=Path, help="where progress is kept; without it nothing is")
    args = parser.parse_args()

    done: dict[str, str] = {}
    if args.state is not None and args.state.exists():
        done = json.loads(args.state.read_text())
    todo = list(chunks(args.start, args.count, done))
    left = sum(map(len, todo))
    if left < args.count:
        print(f"{args.count - left} seeds are done already", flush=True)
    finished, broken, begin = 0, 0, perf_counter()
    with multiprocessing.get_context("spawn").Pool(args.jobs) as pool:
        for start, count, trace, findings in pool.imap_unordered(run_chunk, todo):
            finished += count
            for seed, what in findings:
                print(f"seed {seed}: {what}", flush=True)
            broken += len(findings)
            if not findings:
                done[f"{start}+{count}"] = trace
                if args.state is not None:
                    args.state.write_text(json.dumps(done))
            pace = (perf_counter() - begin) / finished
            if sys.stderr.isatty():
                print(f"\r{finished}/{left} seeds, {broken} broken, {pace * 1e3:.1f} ms each", end="", file=sys.stderr, flush=True)
    seconds = perf_counter() - begin
    whole = hashlib.blake2b(digest_size=16)
    for key in sorted(done, key=lambda key: int(key.split("+")[0])):
        whole.update(done[key].encode())
    pace_ms = seconds * 1e3 / max(finished, 1)
    print(
        f"{finished} seeds in {seconds:.0f} s ({pace_ms:.1f} ms each on {args.jobs} processes), {broken} broken, traces {whole.hexdigest()}"
    )
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
