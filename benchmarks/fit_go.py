"""A software profile of another implementation, fitted on a few of its cells and judged on others.

    python benchmarks/fit_go.py --command "./go-cell {store} {pipeline} {conc} {seconds}" --into go.jsonl --write models/go-original.toml

The command runs one cell of the other system and prints one Go benchmark line, as `benchmarks/versus.py` takes it; `{store}` is what that
system calls its storage. Training and test cells are measured in turns, round after round, on a host that should be quiet; what was
measured is kept in `--into`, so that an interrupted run goes on and a finished one is only fitted again. The few free costs of the profile
are those with which the simulated training cells come nearest the medians of the measured ones. Then the test cells, which no fit
has seen, are predicted. Ends with status 1 if they are further off, on average, than `--max-error`.
"""

from __future__ import annotations

import datetime as dt
import math
import platform
import re
import shlex
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
import msgspec
import numpy as np
from scipy.optimize import least_squares

from benchmarks.versus import read_sample, run_command
from rafttoy.analysis.models import dump_model, open_model
from rafttoy.analysis.probe import probe_disk
from rafttoy.analysis.whatif import apply_settings
from rafttoy.cell import Cell, Plan
from rafttoy.cli.console import note, progress, run_script
from rafttoy.cli.types import COUNT, PERCENT
from rafttoy.errors import CheckFailed, ConfigError, unknown
from rafttoy.sim.model import Calibrated, Disk, Hardware, Kv, Linear, Link, Meta, Model, Software
from rafttoy.worlds import cores, run_sim

# --- cells -------------------------------------------------------------------------------------------------------------------

STORES: dict[str, dict[str, str]] = {
    "mem": {"wal": "mem", "engine": "mem"},
    "etcd-mem": {"wal": "etcd", "engine": "mem"},
    "etcd-pebble": {"wal": "etcd", "engine": "leveldb"},
    "pebble": {"storage": "leveldb", "wal": "leveldb", "engine": "leveldb"},
}
"""What `{store}` is filled with -> fields of our cell. A `leveldb` of such a profile stands for Pebble."""


def cell_of(store: str, pipeline: str, conc: int) -> Cell:
    return msgspec.structs.replace(Cell(pipeline=pipeline, transport="grpc", conc=conc), **STORES[store])


def store_of(cell: Cell) -> str:
    return next(store for store in STORES if cell_of(store, cell.pipeline, cell.conc).storage_name() == cell.storage_name())


TRAINING = [
    cell_of("mem", "parallel-append", 1),
    cell_of("mem", "parallel-append", 64),
    cell_of("mem", "basic", 2048),
    cell_of("etcd-mem", "parallel-append", 256),
    cell_of("etcd-pebble", "basic", 256),
    cell_of("pebble", "parallel-append", 512),
]

TEST = [
    *(cell_of(store, "parallel-append", conc) for store in STORES for conc in (16, 128, 1024)),
    *(cell_of(store, "basic", conc) for store in ("mem", "etcd-mem") for conc in (128, 1024)),
    *(cell_of(store, "async-apply-early-ack-lazy-follower", 256) for store in ("mem", "etcd-mem")),
]

SMALL = ([cell_of("mem", "basic", 1), cell_of("mem", "basic", 8)], [cell_of("mem", "basic", 4)])
"""Training and test cells of this script's own test."""

README = {128: [9607], 256: [7136, 7108, 6839], 512: [6149, 6341, 6691], 1024: [5575, 5571, 5369], 2048: [5448]}
"""Of the original's README (2019; three m5d.4xlarge, parallel-append, Pebble as log and engine): concurrency -> ns a proposal."""

README_MODEL = "m5d.4xlarge"

ON_LOOP = 0.15
"""Of the CPU time that Pebble takes, what it takes in the peer's loop (profile of a leader with 512 clients, pprof: 0.12 of 0.79 s; the
rest are flushes, compactions and the log's writer). A fit on few cores cannot tell them apart: there, all of it is waited for."""

ASSUMPTIONS = (
    "processors as fast as those that the profile was fitted on",
    f"with cores to spare, {ON_LOOP:.0%} of Pebble's work is the loop's; its flushes, compactions and log writer have cores of their own",
    "clients that know nothing of each other; 0.1 ms one way between hosts",
    "the original of 2019 costs what that of 2024 does",
)


# --- measuring ---------------------------------------------------------------------------------------------------------------


class Sample(msgspec.Struct, frozen=True):
    """One run of one cell."""

    cell: Cell
    round: int
    ops_per_s: float


def words(template: str, cell: Cell, seconds: float) -> list[str]:
    """ConfigError for a placeholder that is none."""
    known = {name: str(value) for name, value in msgspec.structs.asdict(cell).items()} | {
        "seconds": f"{seconds:g}",
        "store": store_of(cell),
    }

    def fill(match: re.Match[str]) -> str:
        if match[1] not in known:
            raise unknown("--command: placeholder", match[1], known)
        return known[match[1]]

    return [re.sub(r"\{(\w+)\}", fill, word) for word in shlex.split(template)]


def read_samples(path: Path) -> list[Sample]:
    """ConfigError naming the line that is none; the last one may be cut off."""
    samples = []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1) if path.exists() else ():
        try:
            samples.append(msgspec.json.decode(line, type=Sample))
        except msgspec.DecodeError as error:
            raise ConfigError(f"{path}: line {number} is no sample: {error}") from None
    return samples


def measure(
    cells: Sequence[Cell], rounds: int, into: Path, run: Callable[[Cell], float], moved: Callable[[str, float], None]
) -> list[Sample]:
    """`rounds` of all `cells`, every second one backwards; those that `into` has are not run again."""
    samples = read_samples(into)
    had = {(sample.cell, sample.round) for sample in samples}
    turns = [(cell, number) for number in range(rounds) for cell in (cells if number % 2 == 0 else cells[::-1])]
    for i, (cell, number) in enumerate(turns):
        moved(f"round {number + 1}: {cell}", i / len(turns))
        if (cell, number) not in had:
            samples.append(Sample(cell, number, run(cell)))
            with into.open("ab") as file:
                file.write(msgspec.json.encode(samples[-1]) + b"\n")
    return samples


def medians(samples: Sequence[Sample]) -> dict[Cell, float]:
    rates: dict[Cell, list[float]] = {}
    for sample in samples:
        rates.setdefault(sample.cell, []).append(sample.ops_per_s)
    return {cell: statistics.median(values) for cell, values in rates.items()}


def noise_pct(samples: Sequence[Sample], cells: Sequence[Cell]) -> float:
    """Mean distance of a run from its cell's median."""
    middle = medians(samples)
    return 100 * statistics.fmean(abs(sample.ops_per_s / middle[sample.cell] - 1) for sample in samples if sample.cell in set(cells))


# --- the profile -------------------------------------------------------------------------------------------------------------


class Free(NamedTuple):
    """A cost that is fitted. `guess` is where the search begins, and what is kept where no training cell says otherwise."""

    what: str
    guess: float


FREE = {
    "round_us": Free("work of the loop that a round costs whatever it carries, spread over its stages", 50.0),
    "entry_us": Free("work of the loop for each entry: half on every peer that applies it, half on the leader alone", 3.0),
    "encode_us": Free("what encoding an entry for etcd's log adds", 1.0),
    "put_us": Free("putting an entry into Pebble: into its log, or as what was applied", 2.0),
    "packet_us": Free("core time of a packet beside the loops, on each side", 40.0),
    "beside_us": Free("the same for each entry of it: clients, garbage, and the transport's copies", 3.0),
    "delay_us": Free("one way between peers of this host, and to wake the receiver", 20.0),
}

_ROUND = {"ready": 0.3, "advance": 0.2, "propose": 0.2, "ack": 0.1, "wal.encode": 0.1, "engine.apply": 0.1}
_MESSAGE = 0.1
"""How a round's work is spread; a message sent or received has its own share."""

_ENTRY_BYTES = 290
"""Of an entry with 256 B of payload, in a packet, a log or a store: costs that here are of bytes are told of entries."""

_PRIOR = 0.15
"""Weight of a guess that is off by a factor of e, against a training cell that is off by so much."""


def profile(costs: Mapping[str, float], hardware: Hardware) -> Model:
    """The model of `costs` by the names of `FREE`."""
    round_us, entry_us = costs["round_us"], costs["entry_us"]
    stages = {name: Linear(fixed_us=round(share * round_us, 3)) for name, share in _ROUND.items()}
    stages |= {name: Linear() for name in ("send", "receive")}  # a message's work is the link's
    for name, us in {
        "propose": entry_us / 4,
        "client": entry_us / 4,
        "engine.apply": entry_us / 2,
        "wal.encode": costs["encode_us"],
    }.items():
        stages[name] = Linear(stages[name].fixed_us if name in stages else 0.0, round(us, 4))
    beside = Linear(fixed_us=round(costs["packet_us"], 3), byte_ns=round(1e3 * costs["beside_us"] / _ENTRY_BYTES, 4))
    message = Linear(fixed_us=round(_MESSAGE * round_us, 3))
    link = Link(delay_us=round(costs["delay_us"], 2), send=message, receive=message, background=beside)
    put = Linear(fixed_us=round(_MESSAGE * round_us, 3), byte_ns=round(1e3 * costs["put_us"] / _ENTRY_BYTES, 4))
    return Model(
        meta=Meta(name="go-original"),
        hardware=msgspec.structs.replace(hardware, links={"grpc": link}),
        software=Software(
            stages=dict(sorted(stages.items())), kv={"dict": Kv(write=Linear()), "leveldb": Kv(write=put)}, commit_broadcast=True
        ),
    )


# --- clients that know nothing of each other ---
#
# In a closed loop here, whoever was answered at once proposes again at once: one batch goes round. The original's clients are
# goroutines: each proposes when it is scheduled. So many of them are arrivals at random, at the rate at which as many proposals are in
# flight as there are clients (Little: N = X · R). One alone is a closed loop in either.


def latency_s(cell: Cell, model: Model, rate: float) -> float:
    """Mean latency of the model where the cell's clients propose `rate` times a second in all."""
    if cell.conc == 1:
        alone = run_sim(cell, Plan(proposals=60), model)
        return alone.seconds / alone.ops
    arrivals = msgspec.structs.replace(cell, conc=0, rate=rate)
    plan = Plan(seconds=(500 + 2 * cell.conc) / rate, warmup_seconds=(100 + cell.conc) / rate, tick_seconds=0.0)
    return run_sim(arrivals, plan, model).latency.mean / 1e9


def predicted(cell: Cell, model: Model) -> float:
    """Proposals a second, to within half a percent."""
    if cell.conc == 1:
        return 1 / latency_s(cell, model, 0.0)
    low, high = 500.0, 500_000.0
    while high > 1.01 * low:
        middle = math.sqrt(low * high)
        if middle * latency_s(cell, model, middle) <= cell.conc:
            low = middle
        else:
            high = middle
    return math.sqrt(low * high)


def fit(
    measured: Mapping[Cell, float], hardware: Hardware, moved: Callable[[str, float], None] = lambda what, share: None
) -> dict[str, float]:
    """Costs by the names of `FREE`: least squares of the logarithms of simulated over measured latency at the measured throughput,
    and, weakly, of each cost over its guess (so that costs which these cells hardly tell apart stay plausible)."""
    guesses = np.array([free.guess for free in FREE.values()])
    steps = 0

    def costs(logs: Any) -> dict[str, float]:
        return dict(zip(FREE, (guesses * np.exp(logs - _MIDDLE)).tolist(), strict=True))

    def residuals(logs: Any) -> list[float]:
        nonlocal steps
        steps += 1
        moved(f"step {steps}", 1 - math.exp(-steps / 60))
        model = profile(costs(logs), hardware)
        off = [math.log(latency_s(cell, model, rate) * rate / cell.conc) for cell, rate in measured.items()]
        return off + [_PRIOR * (log - _MIDDLE) for log in logs.tolist()]

    start = np.full(len(guesses), _MIDDLE)
    found = least_squares(residuals, start, diff_step=_STEP / _MIDDLE, bounds=(_MIDDLE - 4, _MIDDLE + 4), max_nfev=12, ftol=1e-3)
    return costs(found.x)


_MIDDLE = 10.0  # the search's steps are relative to where it stands: at 0 there are none
_STEP = 0.1


def hardware_of(name: str | None, into: Path, data_dir: Path | None) -> Hardware:
    """That of a model, or of this host: its disk is probed once, and kept beside the measurements.

    What another runtime takes to hand a write over is not an event loop's: a system call."""
    if name is not None:
        return open_model(name).hardware
    kept = into.with_suffix(".disk.json")
    if not kept.exists():
        kept.write_bytes(msgspec.json.encode(probe_disk(data_dir)))
    disk = msgspec.json.decode(kept.read_bytes(), type=Disk)
    return Hardware(cores=cores(None), disk=msgspec.structs.replace(disk, handoff_us=2.0), links={})


def described(model: Model, training: Sequence[Cell], rounds: int) -> Model:
    """With its provenance, and what it was fitted on."""
    release = ".".join(platform.release().split(".")[:2])
    meta = Meta(
        name="go-original",
        host=f"{model.hardware.cores}-core machine, {platform.system()} {release}",
        date=dt.datetime.now(dt.UTC).date().isoformat(),
        method=f"{len(FREE)} costs of the Go rafttoy (7464013), least squares over {len(training)} of its cells, medians of {rounds} runs",
        confidence="medium: throughput of whole cells only, no stage was measured by itself; leveldb stands for Pebble",
    )
    conc = [cell.conc for cell in training]
    storages = list(dict.fromkeys(cell.storage_name() for cell in training))
    calibrated = Calibrated(conc=(min(conc), max(conc)), bytes=(256, 256), transports=["grpc"], storages=storages)
    return msgspec.structs.replace(model, meta=meta, calibrated=calibrated)


# --- judging -----------------------------------------------------------------------------------------------------------------


def errors(measured: Mapping[Cell, float], cells: Sequence[Cell], model: Model) -> dict[Cell, tuple[float, float]]:
    """Cell -> (predicted throughput, error in percent)."""
    rates = {cell: predicted(cell, model) for cell in cells}
    return {cell: (rate, 100 * (rate / measured[cell] - 1)) for cell, rate in rates.items()}


def mape_pct(found: Mapping[Any, tuple[float, float]]) -> float:
    return statistics.fmean(abs(error) for _, error in found.values())


def table(title: str, measured: Mapping[Cell, float], found: Mapping[Cell, tuple[float, float]]) -> str:
    lines = [
        f"{title} cells ({len(found)}), 256 B:",
        "",
        "| store | pipeline | conc | measured | predicted | error |",
        "|---|---|---|---|---|---|",
    ]
    for cell, (rate, error) in found.items():
        lines.append(f"| {store_of(cell)} | {cell.pipeline} | {cell.conc} | {measured[cell]:,.0f}/s | {rate:,.0f}/s | {error:+.0f} % |")
    return "\n".join(lines)


def readme_errors(software: str) -> dict[int, tuple[float, float]]:
    """Concurrency -> (predicted throughput, error in percent) of the README's table, on the shipped hardware profile."""
    model = open_model(f"hardware={README_MODEL},software={software}")
    model = apply_settings(model, [f"kv.leveldb.write.byte_ns=x{ON_LOOP}"])
    out = {}
    for conc, ns in README.items():
        rate = predicted(cell_of("pebble", "parallel-append", conc), model)
        out[conc] = (rate, 100 * (rate * statistics.fmean(ns) / 1e9 - 1))
    return out


def readme_table(found: Mapping[int, tuple[float, float]]) -> str:
    lines = [f"The README of the original, on {README_MODEL}, assuming:", "", *(f"- {text}" for text in ASSUMPTIONS), ""]
    lines += ["| conc | README | predicted | error |", "|---|---|---|---|"]
    for conc, (rate, error) in found.items():
        lines.append(f"| {conc} | {1e9 / statistics.fmean(README[conc]):,.0f}/s | {rate:,.0f}/s | {error:+.0f} % |")
    return "\n".join(lines)


@click.command(context_settings={"show_default": True})
@click.option("--command", "template", help="Runs one cell: {store} {pipeline} {conc} {bytes} {seconds}. Not needed where INTO has all.")
@click.option("--into", type=click.Path(path_type=Path, dir_okay=False), default="go.jsonl", help="Measurements, kept as they come.")
@click.option("--write", "target", type=click.Path(path_type=Path, dir_okay=False), help="Where the profile goes (a .toml).")
@click.option("--rounds", type=COUNT, default=5)
@click.option("--seconds", type=float, default=1.0, help="What {seconds} is filled with.")
@click.option("--timeout", type=float, default=120.0, help="Seconds that one run may take.")
@click.option("--hardware", help="A model whose hardware is that of the measurements; without it, this host's disk is probed.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Where the disk is probed.")
@click.option("--max-error", type=PERCENT, default=20.0, help="Mean error of the test cells, in percent.")
@click.option("--small", is_flag=True, help="Three cells.")
@click.option("--list", "listed", is_flag=True, help="Print the cells, and run nothing.")
def main(
    template: str | None,
    into: Path,
    target: Path | None,
    rounds: int,
    seconds: float,
    timeout: float,
    hardware: str | None,
    data_dir: Path | None,
    max_error: float,
    small: bool,
    listed: bool,
) -> None:
    """Fit and judge."""
    training, test = SMALL if small else (TRAINING, TEST)
    assert not set(training) & set(test), "a cell that is fitted on cannot judge"
    if listed:
        for title, cells in (("training", training), ("test", test)):
            for cell in cells:
                click.echo(f"{title} {cell}")
        return

    def run(cell: Cell) -> float:
        if template is None:
            raise ConfigError(f"--command: {into} has no round of {cell}")
        return read_sample(run_command(words(template, cell, seconds), timeout), cell)["ops_per_s"]

    host = hardware_of(hardware, into, data_dir)
    with progress("measuring") as moving:
        samples = measure([*training, *test], rounds, into, run, moving)
    measured = medians(samples)
    with progress("fitting") as moving:
        costs = fit({cell: measured[cell] for cell in training}, host, moving)
    model = described(profile(costs, host), training, rounds)
    for name, value in costs.items():
        click.echo(f"{name:10} {value:8.2f}  {FREE[name].what}")
    judged = errors(measured, test, model)
    click.echo(f"\n{table('training', measured, errors(measured, training, model))}\n\n{table('test', measured, judged)}")
    mape = mape_pct(judged)
    click.echo(f"\nmean error of the test cells {mape:.1f} %; a run is off its cell's median by {noise_pct(samples, test):.1f} %")
    if target is not None:
        target.write_text(dump_model(model), encoding="utf-8")
        note(f"wrote {target}")
        if not small:
            click.echo(f"\n{readme_table(readme_errors(str(target)))}")
    if mape > max_error:
        raise CheckFailed(f"mean error {mape:.1f} %, more than --max-error {max_error:g} %")


if __name__ == "__main__":
    run_script(main)
