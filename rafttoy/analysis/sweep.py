"""A grid of cells in the model or on real disks: in parallel, resumable, on a cluster of machines.

Simulated cells run in processes of their own, one a core, or on the workers of a Dask cluster. Real cells of one host run one after
another, since they would disturb each other; on a Dask cluster each worker measures its own host, one cell at a time.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from rafttoy.analysis.pool import worker_pool
from rafttoy.cell import Cell, Plan
from rafttoy.errors import ConfigError, RafttoyError, RunError
from rafttoy.experiment import Progress, Result, run_grid
from rafttoy.sim.model import Model
from rafttoy.worlds import cores

__all__ = ["Job", "ResultFile", "bench_command", "cell_flags", "read_results", "sweep"]

decode_result = msgspec.json.Decoder(Result).decode


class Job(NamedTuple):
    """One run of one cell."""

    cell: Cell
    plan: Plan

    def key(self) -> tuple[Cell, int]:
        return (self.cell, self.plan.seed)


class Outcome(NamedTuple):
    """What became of a job: its result, or the error that a user can do something about."""

    job: Job
    result: Result | None
    error: str = ""


# --- the file ---


def read_results(path: Path) -> list[Result]:
    """Results of a file of JSON lines; one that was cut off at the end (a writer was killed) does not count.

    Raises ConfigError naming the file and the line."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    results = []
    for number, line in enumerate(lines[:-1], 1):
        try:
            results.append(decode_result(line))
        except msgspec.DecodeError as error:
            raise ConfigError(f"{path}: line {number} is no result: {error}") from None
    return results


class ResultFile:
    """Results that are kept as they come; what is in the file already need not be run again."""

    def __init__(self, path: Path, world: str, flags: Mapping[str, str]) -> None:
        """Raises ConfigError if it holds results of another world or model."""
        self._path = path
        self.results = read_results(path) if path.exists() else []
        for result in self.results:
            made_with = result.manifest.get("flags", {})
            for name in ("model", "set"):
                if result.world == "sim" and made_with.get(name) != flags.get(name):
                    theirs, ours = made_with.get(name, "the default"), flags.get(name, "the default")
                    raise ConfigError(f"{path}: made with --{name} {theirs}, now {ours}: take another file")
            if result.world != world:
                raise ConfigError(f"{path}: results of --world {result.world}, now {world}: take another file")
        if path.exists():  # what a killed writer left of a line
            whole = path.read_bytes().rpartition(b"\n")
            with path.open("r+b") as file:
                file.truncate(len(whole[0]) + len(whole[1]))

    def add(self, result: Result) -> None:
        """One line, written whole."""
        with self._path.open("ab") as file:
            file.write(msgspec.json.encode(result) + b"\n")


# --- the sweep ---


def sweep(
    world: str,
    cells: Sequence[Cell],
    plan: Callable[[Cell], Plan],
    *,
    count: int = 1,
    model: Model | None = None,
    into: Path | None = None,
    workers: int = 0,
    dask: str | None = None,
    data_dir: Path | None = None,
    flags: Mapping[str, str] | None = None,
    on_result: Callable[[Result], None] = lambda result: None,
    progress: Progress = lambda what, share: None,
    say: Callable[[str], None] = lambda line: None,
) -> list[Result]:
    """All results in the order of the grid, those that `into` held already among them; `on_result` is told the new ones as they come.

    `workers` is the number of processes (0: one a core). Cells that fail do not end the sweep: RunError tells of them when the others are
    done. Raises ConfigError for an `into` of something else, and for a `dask` that cannot be used."""
    jobs = []
    for cell in cells:
        base = plan(cell)
        jobs += [Job(cell, msgspec.structs.replace(base, seed=base.seed + i)) for i in range(count)]
    file = ResultFile(into, world, flags or {}) if into is not None else None
    found = {(result.cell(), result.seed): result for result in file.results} if file is not None else {}
    todo = [job for job in jobs if job.key() not in found]
    failures: list[Outcome] = []
    for done, outcome in enumerate(_run(world, todo, model, workers, dask, data_dir, dict(flags or {}), progress, say), 1):
        if outcome.result is None:
            say(f"{outcome.job.cell}: {outcome.error}")
            failures.append(outcome)
        else:
            found[outcome.job.key()] = outcome.result
            if file is not None:
                file.add(outcome.result)
            on_result(outcome.result)
        progress(str(outcome.job.cell), done / len(todo))
    if failures:
        first = failures[0]
        raise RunError(f"{len(failures)} of {len(jobs)} runs failed; the first: {first.job.cell}: {first.error}")
    return [found[job.key()] for job in jobs]


def _run(
    world: str,
    jobs: Sequence[Job],
    model: Model | None,
    workers: int,
    dask: str | None,
    data_dir: Path | None,
    flags: dict[str, str],
    progress: Progress,
    say: Callable[[str], None],
) -> Iterable[Outcome]:
    if not jobs:
        return []
    if dask is not None:
        return _on_dask(dask, world, jobs, model, data_dir, flags)
    if world == "real":
        return _one_by_one(jobs, data_dir, flags, progress, say)
    workers = min(workers or cores(None), len(jobs))
    if workers == 1:
        return (_simulate(job, model, flags) for job in jobs)
    return _in_processes(jobs, model, workers, flags)


def _simulate(job: Job, model: Model | None, flags: Mapping[str, str]) -> Outcome:
    try:
        return Outcome(job, run_grid("sim", [job.cell], job.plan, model=model, flags=flags)[0])
    except RafttoyError as error:
        return Outcome(job, None, str(error))


def _one_by_one(
    jobs: Sequence[Job], data_dir: Path | None, flags: Mapping[str, str], progress: Progress, say: Callable[[str], None]
) -> Iterator[Outcome]:
    for i, job in enumerate(jobs):

        def moved(what: str, share: float, i: int = i) -> None:
            progress(what, (i + share) / len(jobs))

        try:
            results = run_grid("real", [job.cell], job.plan, data_dir=data_dir, flags=flags, progress=moved, say=say)
        except RafttoyError as error:
            yield Outcome(job, None, str(error))
        else:
            yield Outcome(job, results[0])


# --- processes of this host ---

_worker_model: Model | None = None
_worker_flags: dict[str, str] = {}


def _begin_worker(model: bytes, flags: dict[str, str]) -> None:
    global _worker_model, _worker_flags  # noqa: PLW0603  # what every job of this process needs, sent once
    _worker_model = msgspec.json.decode(model, type=Model)
    _worker_flags = flags


def _work(job: Job) -> Outcome:
    return _simulate(job, _worker_model, _worker_flags)


def _in_processes(jobs: Sequence[Job], model: Model | None, workers: int, flags: dict[str, str]) -> Iterator[Outcome]:
    with worker_pool(workers, _begin_worker, msgspec.json.encode(model), flags) as pool:
        for future in as_completed([pool.submit(_work, job) for job in jobs]):
            yield future.result()


# --- a Dask cluster ---


def _on_dask(
    address: str, world: str, jobs: Sequence[Job], model: Model | None, data_dir: Path | None, flags: dict[str, str]
) -> Iterator[Outcome]:
    try:
        import distributed  # noqa: PLC0415  # optional
    except ImportError:
        raise ConfigError("--dask needs Dask: pip install 'rafttoy[dask]'") from None
    try:
        client = distributed.Client(address, timeout="10s")  # type: ignore[no-untyped-call]
    except (OSError, ValueError, TimeoutError) as error:
        raise ConfigError(f"--dask {address}: {error}") from None
    with client:
        if world == "real":
            crowded = [name for name, worker in client.scheduler_info(n_workers=-1)["workers"].items() if worker["nthreads"] != 1]
            if crowded:
                raise ConfigError(
                    f"--dask {address}: to measure, each worker takes one cell at a time (--nthreads 1); {crowded[0]} takes more"
                )
            futures = [client.submit(_bench, job, data_dir, pure=False) for job in jobs]
        else:
            futures = [client.submit(_simulate, job, model, flags, pure=False) for job in jobs]
        for _, outcome in distributed.as_completed(futures, with_results=True):  # type: ignore[no-untyped-call]
            yield outcome


def cell_flags(cell: Cell) -> list[str]:
    """The flags that mean this cell."""
    storage: dict[str, Any] = {"wal": cell.wal, "engine": cell.engine} if cell.storage == "split" else {"storage": cell.storage}
    load = {"rate": f"{cell.rate:g}", "arrival": cell.arrival} if cell.rate else {"conc": cell.conc}
    flags = {"pipeline": cell.pipeline, **storage, "transport": cell.transport, **load, "bytes": cell.bytes, "nodes": cell.nodes}
    return [word for name, value in flags.items() for word in (f"--{name}", str(value))]


def bench_command(job: Job, data_dir: Path | None) -> list[str]:
    """The command that measures one cell, where it runs."""
    plan = job.plan
    flags: dict[str, Any] = {"proposals": plan.proposals} if plan.proposals else {"duration": f"{plan.seconds:g}s"}
    flags |= {"warmup": f"{plan.warmup_seconds:g}s", "seed": plan.seed, "sync": plan.sync, "idle": plan.idle}
    flags |= {"connect-timeout": f"{plan.connect_seconds:g}s"}
    flags |= {name: value for name, value in (("max-inflight", plan.max_inflight), ("max-message-bytes", plan.max_message_bytes)) if value}
    command = [sys.executable, "-m", "rafttoy", "bench", "-o", "json", *cell_flags(job.cell)]
    command += [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    command += ["--verify"] if plan.verify else []
    return command + (["--data-dir", str(data_dir)] if data_dir is not None else [])


def _bench(job: Job, data_dir: Path | None) -> Outcome:
    """A real run in processes of its own: a Dask worker must not fork, and its threads take no signals."""
    done = subprocess.run(bench_command(job, data_dir), capture_output=True, check=False)
    if done.returncode or not done.stdout:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["no output"]
        return Outcome(job, None, lines[-1].removeprefix("rafttoy: error: "))
    return Outcome(job, decode_result(done.stdout.splitlines()[0]))
