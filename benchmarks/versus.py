"""Our cells beside another system's, in interleaved rounds on one host, as a table of ratios.

    python benchmarks/versus.py --cell 'pipeline=parallel-append wal=mem engine=mem transport=tcp conc=1,128' \
        --other 'etcd-cell --clients {conc} --seconds {seconds}' --name 'etcd 3.7, no fsync' \
        --other-durable no --other-bytes 256 --other-nodes 3 --rounds 5 -o markdown

The other system is any command that runs one cell and prints one Go benchmark line (`MB/s` is its throughput, of payload). What it
runs must be what we run: cells whose durability, payload or number of nodes differ are refused. `docs/performance.md` tells how the
rounds are made and how to read the table.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import resource
import shlex
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar

import click
import msgspec
from rich import box
from rich.table import Table

from rafttoy.analysis import formats
from rafttoy.analysis.ratio import CONFIDENCE, Ratio, ratio_of
from rafttoy.cell import IDLE_MODES, Cell, Plan
from rafttoy.cli.console import note, note_host, print_table, progress
from rafttoy.cli.options import grid
from rafttoy.cli.types import COUNT, DURATION, RATE
from rafttoy.errors import CheckFailed, ConfigError, PeerError, RafttoyError, RunError, unknown
from rafttoy.experiment import validate
from rafttoy.ports import SYNC_MODES
from rafttoy.storage import is_durable
from rafttoy.worlds import idle_cores, idle_mode

T = TypeVar("T")

KEPT_UP_FROM = 0.95
"""Of the rate of an open loop: who serves less has a queue that grows while the run lasts, and its latencies say how long that was."""

DISTURBED_FROM = 0.1
"""Of the cores' time: where other processes take more during a run, its figures are partly theirs."""

METRICS = {
    "ops_per_s": "proposals a second (a ratio above 1: we are faster)",
    "mean_us": "mean latency (a ratio below 1: ours is shorter)",
    "p50_us": "median latency (a ratio below 1: ours is shorter)",
    "p99_us": "99th percentile of latency (a ratio below 1: ours is shorter)",
}
"""What is compared, where both sides tell it."""


# --- cells -------------------------------------------------------------------------------------------------------------------


def parse_cells(text: str) -> list[Cell]:
    """`pipeline=basic conc=1,128` → the product of the lists, as `rafttoy bench` has it; defaults are those of its flags.

    Raises ConfigError naming the key."""
    fields = {field.name: field for field in msgspec.structs.fields(Cell)}
    flags: dict[str, tuple[Any, ...]] = {name: (field.default,) for name, field in fields.items()} | {"rate": ()}
    given = dict.fromkeys(word.partition("=")[0] for word in shlex.split(text))
    for word in shlex.split(text):
        name, _, values = word.partition("=")
        if name not in fields:
            raise unknown(f"--cell {text!r}:", name, fields)
        try:
            flags[name] = tuple(msgspec.convert(value, fields[name].type, strict=False) for value in values.split(","))
        except msgspec.ValidationError as error:
            raise ConfigError(f"--cell {text!r}: {name}: {error}") from None
    if "rate" in given:
        if "conc" in given:
            raise ConfigError(f"--cell {text!r}: conc and rate exclude each other")
        flags["conc"] = ()
    cells = grid(flags)
    for cell in cells:
        validate(cell, Plan())
    return cells


def durable(cell: Cell, sync: str) -> bool:
    """Whether a proposal of this cell is on the disks of a majority when it is acknowledged."""
    return sync != "none" and is_durable(cell.storage, cell.wal)


class Other(msgspec.Struct, frozen=True):
    """The other system: the command that runs one of its cells, and what that is said to be. A number that is None is one that the
    command takes from our cell, by a placeholder."""

    name: str
    command: str
    durable: bool
    bytes: int | None
    nodes: int | None
    processes: int | None

    def words(self, cell: Cell, seconds: float) -> list[str]:
        """The command line for a cell. ConfigError for a placeholder that is no field of a cell."""
        known = {name: _word(value) for name, value in msgspec.structs.asdict(cell).items()} | {"seconds": f"{seconds:g}"}

        def fill(match: re.Match[str]) -> str:
            if match[1] not in known:
                raise unknown("--other: placeholder", match[1], known)
            return known[match[1]]

        return [re.sub(r"\{(\w+)\}", fill, word) for word in shlex.split(self.command)]


def _word(value: Any) -> str:
    """A number without an exponent, or a fraction that it does not have: any command reads that."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def refuse(cell: Cell, sync: str, other: Other) -> None:
    """ConfigError naming all that makes the two cells no match."""
    processes = 1 if cell.transport == "mem" else cell.nodes
    sides = {
        "durability": (_durability(durable(cell, sync)), _durability(other.durable)),
        "payload": (f"{cell.bytes} B", f"{other.bytes or cell.bytes} B"),
        "nodes": (str(cell.nodes), str(other.nodes or cell.nodes)),
        "processes": (str(processes), str(other.processes or other.nodes or cell.nodes)),
    }
    _refuse_unequal(cell, sides)


def _durability(synced: bool) -> str:
    return "synced before the acknowledgement" if synced else "in memory"


def _refuse_unequal(cell: Cell, sides: Mapping[str, tuple[str, str]]) -> None:
    differences = [f"{what}: ours {mine}, theirs {theirs}" for what, (mine, theirs) in sides.items() if mine != theirs]
    if differences:
        raise ConfigError(f"{cell}: not comparable: {'; '.join(differences)}")


# --- one run -----------------------------------------------------------------------------------------------------------------

Sample = dict[str, float]
"""Metric → value, of one run; `ops_per_s` is always there."""


def run_command(words: Sequence[str], timeout_s: float, environment: Mapping[str, str] | None = None) -> str:
    """What a command that ends well prints. One that does not end in time, or is interrupted, is ended with its process group.

    Raises ConfigError (no such command), RunError (a status other than 0, or too long)."""
    try:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,
        )
    except OSError as error:
        raise ConfigError(f"{words[0]}: {error.strerror}") from None
    with process:
        try:
            out, err = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            _end_group(process)
            raise RunError(f"{shlex.join(words)}: not done after {timeout_s:g} s") from None
        except BaseException:  # an interrupt: the group is a session of its own, which the terminal does not reach
            _end_group(process)
            raise
    if process.returncode:
        last = "".join(f"\n  {line}" for line in f"{out}{err}".splitlines()[-8:])
        raise RunError(f"{shlex.join(words)}: ended with status {process.returncode}{last}")
    return out


def _end_group(process: subprocess.Popen[str]) -> None:
    """First an interrupt, upon which a well-behaved command removes what it made; then the end of all that is left of its group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        os.killpg(process.pid, signal.SIGKILL)


def our_words(cell: Cell, plan: Plan, more: Sequence[str]) -> list[str]:
    """The command line of `rafttoy bench` for one cell: everything said, so that no default and no file decides; `more` comes behind."""
    names = ["pipeline", *(("wal", "engine") if cell.storage == "split" else ()), "storage", "transport", "bytes", "nodes"]
    names += ["rate", "arrival"] if cell.rate else ["conc"]
    words = [sys.executable, "-m", "rafttoy", "bench", "-o", "json"]
    for name in names:
        words += [f"--{name}", str(getattr(cell, name))]
    words += ["--duration", f"{plan.seconds:g}s", "--warmup", f"{plan.warmup_seconds:g}s", "--sync", plan.sync, "--idle", plan.idle]
    words += ["--seed", str(plan.seed)]
    return [*words, *more]


def run_ours(cell: Cell, plan: Plan, more: Sequence[str], timeout_s: float) -> tuple[Sample, dict[str, Any]]:
    """One run in processes of its own, as whoever types the command gets it: the sample, and the result it is taken from.

    RAFTTOY_* variables do not reach it: what is compared is what the table says."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAFTTOY_")}
    result = msgspec.json.decode(run_command(our_words(cell, plan, more), timeout_s, environment))
    for warning in result["warnings"]:
        note(f"{cell}: {warning}")
    promised = {"sync": plan.sync, "idle": plan.idle, "bytes": cell.bytes, "nodes": cell.nodes}
    promised |= {"wal": cell.wal} if cell.storage == "split" else {}
    if changed := [name for name, value in promised.items() if result[name] != value]:
        raise ConfigError(f"--flags: {', '.join(changed)} is what is compared: say it with --cell, --sync or --idle")
    if result["partial"] or not result["ops"]:
        raise RunError(f"{cell}: our run was cut short or acknowledged nothing")
    latency = result["latency_us"]
    return {"ops_per_s": result["ops_per_s"], "mean_us": latency["mean"], "p50_us": latency["p50"], "p99_us": latency["p99"]}, result


def busy_s() -> float:
    """CPU time that this host has spent on anything since it started, and that its own host withheld from it (steal)."""
    fields = Path("/proc/stat").read_text().partition("\n")[0].split()[1:9]  # guest time is part of user time
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields)
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def watched(call: Callable[[], T]) -> tuple[T, float]:
    """(what `call` returns, the share of the cores' time meanwhile that neither it nor the processes that it started and waited for
    used). What kernel threads do for them counts as others'."""

    def marks() -> tuple[float, float, float]:
        usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return perf_counter(), busy_s(), sum(part.ru_utime + part.ru_stime for part in usage)

    began_s, busy_before_s, own_before_s = marks()
    result = call()
    ended_s, busy_after_s, own_after_s = marks()
    others_s = busy_after_s - busy_before_s - (own_after_s - own_before_s)
    share = others_s / (ended_s - began_s) / (os.cpu_count() or 1)
    return result, min(max(share, 0.0), 1.0)  # the host counts in ticks of 10 ms


class Line(msgspec.Struct, frozen=True):
    """A Go benchmark line (https://go.dev/design/14313-benchmark-format): its name, the `key=value` parts of that, and unit → value."""

    name: str
    parts: dict[str, str]
    values: dict[str, float]


_LINE = re.compile(r"^(Benchmark\S*)[ \t]+\d+[ \t]+(\S.*)$", re.MULTILINE)


def read_lines(output: str) -> list[Line]:
    lines = []
    for name, rest in _LINE.findall(output):
        words = rest.split()
        try:
            values = {unit: float(value) for value, unit in zip(words[::2], words[1::2], strict=True)}
        except ValueError:
            continue  # no benchmark line after all
        parts = dict(part.split("=", 1) for part in re.sub(r"-\d+$", "", name).split("/") if "=" in part)
        lines.append(Line(name, parts, values))
    return lines


def _with_rate(line: Line) -> Line:
    """The same line with its rate as we write it."""
    try:
        return msgspec.structs.replace(line, parts=line.parts | {"rate": _word(float(line.parts["rate"]))})
    except (KeyError, ValueError):
        return line


def read_sample(output: str, cell: Cell) -> Sample:
    """The one line of `output` that is of this cell.

    Where names tell (`/conc=128/bytes=256`), they must agree with it. Throughput is `MB/s` (10^6 bytes of payload) or `ops/s`.
    Latency is `p50-ns` and `p99-ns`, and `ns/op` where that can be the mean latency of a closed loop: throughput times mean latency is the
    number of proposals in flight (Little's law). Go's own `ns/op`, inverse throughput, is not taken for a latency.

    Raises PeerError when there is no such line, ConfigError when there are several, or one of another cell."""
    lines = read_lines(output)
    if not lines:
        raise PeerError(f"--other printed no Go benchmark line:\n{output[-500:]}")
    mine = {"conc": str(cell.conc), "bytes": str(cell.bytes), "nodes": str(cell.nodes), "rate": _word(cell.rate)}
    if cell.rate:  # as it may be written
        lines = [_with_rate(line) for line in lines]
    fitting = [line for line in lines if all(line.parts.get(name, value) == value for name, value in mine.items())]
    if not fitting:
        theirs = lines[0].parts
        names = {"conc": "concurrency", "bytes": "payload in bytes", "nodes": "nodes", "rate": "rate"}
        _refuse_unequal(cell, {names[name]: (value, theirs.get(name, value)) for name, value in mine.items()})
    if len(fitting) > 1:
        raise ConfigError(f"{cell}: --other printed {len(fitting)} lines of it ({fitting[0].name}, …): a round is one run")
    line = fitting[0]
    if "ops/s" in line.values:
        ops_per_s = line.values["ops/s"]
    elif "MB/s" in line.values:
        ops_per_s = line.values["MB/s"] * 1e6 / cell.bytes
    else:
        raise PeerError(f"{line.name}: neither MB/s nor ops/s among {', '.join(line.values)}")
    if ops_per_s <= 0:
        raise RunError(f"{line.name}: a throughput of {ops_per_s:g} /s")
    sample = {"ops_per_s": ops_per_s}
    mean_s = line.values.get("ns/op", 0.0) / 1e9
    if cell.conc and 0.5 <= mean_s * ops_per_s / cell.conc <= 2:
        sample["mean_us"] = mean_s * 1e6
    for percentile in ("p50", "p99"):
        if f"{percentile}-ns" in line.values:
            sample[f"{percentile}_us"] = line.values[f"{percentile}-ns"] / 1e3
    return sample


# --- rounds -----------------------------------------------------------------------------------------------------------------


class Comparison(msgspec.Struct, frozen=True):
    """One cell: what each round gave on both sides, metric → values in order of the rounds, and the ratios of those that both tell.
    `idle` is what processors did that neither side used; `others` is the share of the cores' time that other processes took, of every run
    in turn."""

    cell: Cell
    sync: str
    idle: str
    our_flags: str
    other_name: str
    other_command: str
    ours: dict[str, list[float]]
    theirs: dict[str, list[float]]
    ratios: dict[str, Ratio]
    others: list[float]
    binding: list[str]
    manifest: dict[str, Any]


def turns(rounds: int) -> list[bool]:
    """Whose turn it is, True for ours: A B, B A, A B, … , so that neither a drift of the host nor what the one leaves behind always
    meets the same side."""
    return [us for i in range(rounds) for us in ((True, False) if i % 2 == 0 else (False, True))]


def run_rounds(
    cell: Cell, plan: Plan, more: Sequence[str], other: Other, rounds: int, timeout_s: float, moved: Callable[[int], None]
) -> Comparison:
    """`rounds` runs of each side, in turns; `more` are flags of ours. `moved` is told how many runs are done."""
    ours: list[Sample] = []
    theirs: list[Sample] = []
    others: list[float] = []
    binding: list[str] = []
    manifest: dict[str, Any] = {}
    for i, us in enumerate(turns(rounds)):
        if us:
            mine = msgspec.structs.replace(plan, seed=plan.seed + i // 2)
            (sample, result), share = watched(lambda mine=mine: run_ours(cell, mine, more, timeout_s))  # type: ignore[misc]
            ours.append(sample)
            binding.append(result["binding"])
            manifest = result["manifest"]
        else:
            out, share = watched(lambda: run_command(other.words(cell, plan.seconds), timeout_s))
            theirs.append(read_sample(out, cell))
        others.append(round(share, 4))
        moved(i + 1)
    common = [name for name in METRICS if all(name in sample for sample in (*ours, *theirs))]
    left, right = ({name: [sample[name] for sample in side] for name in common} for side in (ours, theirs))
    ratios = {name: ratio_of(left[name], right[name]) for name in common}
    for side, values in (("ours", left["ops_per_s"]), ("theirs", right["ops_per_s"])):
        if cell.rate and min(values) < KEPT_UP_FROM * cell.rate:
            note(f"{cell}: {side} served {min(values) / cell.rate:.0%} of the rate: its latencies are those of a queue that grows")
    if max(others) > DISTURBED_FROM:
        note(f"{cell}: other processes took up to {max(others):.0%} of the cores; low concurrencies suffer most")
    return Comparison(
        cell, plan.sync, plan.idle, shlex.join(more), other.name, other.command, left, right, ratios, others, binding, manifest
    )


# --- output ------------------------------------------------------------------------------------------------------------------


def same(cells: Sequence[Cell]) -> str:
    """What all cells have in common, in words."""
    told: list[set[str]] = [
        {cell.pipeline for cell in cells},
        {cell.storage_name() for cell in cells},
        {cell.transport for cell in cells},
        {f"{cell.nodes} nodes" for cell in cells},
        {f"{cell.bytes} B" for cell in cells},
    ]
    return ", ".join(text for texts in told if len(texts) == 1 for text in texts)


def rows(metric: str, comparisons: Sequence[Comparison]) -> tuple[list[str], list[list[str]]]:
    """(headings, rows) of the table of one metric: a row a cell."""
    cells = [comparison.cell for comparison in comparisons]
    differ = formats.varying(cells)
    columns = differ if {"conc", "rate"} & set(differ) else [*differ, "rate" if cells[0].rate else "conc"]
    human = formats.human_count if metric == "ops_per_s" else formats.human_us
    out = []
    for comparison in comparisons:
        if metric not in comparison.ratios:
            continue
        row = [f"{value:g}" if isinstance(value := getattr(comparison.cell, name), float) else str(value) for name in columns]
        for values in (comparison.ours[metric], comparison.theirs[metric]):
            row += [human(statistics.median(values)), f"{human(min(values))}…{human(max(values))}"]
        found = comparison.ratios[metric]
        interval = f"{found.low:.2f}…{found.high:.2f}" + (f" ({found.coverage:.0%})" if found.coverage < CONFIDENCE else "")
        out.append([*row, f"{found.ratio:.2f}", interval, f"{found.p:.2g}"])
    return [*columns, "ours", "min…max", "theirs", "min…max", "ratio", f"{CONFIDENCE:.0%} interval", "p"], out


def titles(comparisons: Sequence[Comparison]) -> tuple[str, str]:
    """(what is ours, what is theirs)."""
    first = comparisons[0]
    commit = first.manifest["commit"]
    ours = f"rafttoy {first.manifest['versions']['rafttoy']}" + (f" ({commit})" if commit else "")
    synced = f", sync {first.sync}" if durable(first.cell, first.sync) else ""
    flags = f", {first.our_flags}" if first.our_flags else ""
    return f"{ours}: {same([comparison.cell for comparison in comparisons])}{synced}{flags}", first.other_name


def show(comparisons: Sequence[Comparison], markdown: bool) -> None:
    """A table for each metric, on stdout."""
    ours, theirs = titles(comparisons)
    rounds = len(comparisons[0].ours["ops_per_s"])
    others = max(share for comparison in comparisons for share in comparison.others)
    click.echo(
        f"ours: {ours}\ntheirs: {theirs}\nmedians of {rounds} interleaved rounds; idle processors {comparisons[0].idle}; other "
        f"processes took at most {others:.0%} of the cores"
    )
    for metric, title in METRICS.items():
        headings, body = rows(metric, comparisons)
        if not body:
            continue
        click.echo(f"\n{title}\n" if markdown else f"\n{title}")
        if markdown:
            for line in (headings, ["---:"] * len(headings), *body):
                click.echo(f"| {' | '.join(line)} |")
            continue
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
        for heading in headings:
            table.add_column(heading, justify="right", no_wrap=True)
        for row in body:
            table.add_row(*row)
        print_table(table)


# --- command -----------------------------------------------------------------------------------------------------------------


@click.command(context_settings={"show_default": True, "max_content_width": 120})
@click.option("--cell", "cells", multiple=True, required=True, metavar="KEY=VALUE,… …", help="Ours: fields of a cell, lists make a grid.")
@click.option(
    "--other", "command", required=True, metavar="COMMAND", help="Theirs: runs one cell. {conc}, {bytes}, …, {seconds} are filled in."
)
@click.option("--name", required=True, help="What they are: system, version or commit, settings.")
@click.option("--other-durable", type=click.Choice(["yes", "no"]), required=True, help="Whether they sync before they acknowledge.")
@click.option("--other-bytes", type=COUNT, help="Their payload; not needed where COMMAND takes {bytes}.")
@click.option("--other-nodes", type=COUNT, help="Their nodes; not needed where COMMAND takes {nodes}.")
@click.option("--other-processes", type=COUNT, help="Processes of their nodes.  [default: one each]")
@click.option("--rounds", type=COUNT, default=5, help="Runs of each side and cell; from 4 on p can be below 0.05.")
@click.option("--duration", type=DURATION, default="2s", help="How long each run is measured; theirs as {seconds}.")
@click.option("--warmup", type=DURATION, default="1s", help="What goes before, of ours.")
@click.option("--seed", type=click.IntRange(min=0), default=1, help="Of our first round; each round has the next one.")
@click.option("--sync", type=click.Choice(SYNC_MODES), default="fdatasync", help="How our writes are made durable.")
@click.option(
    "--idle", type=click.Choice(IDLE_MODES), default="poll", help="What processors do that neither side uses; poll needs root, as in bench."
)
@click.option("--flags", default="", help="More flags of ours, as in '--busy-poll leader' or '--data-dir DIR'; the table tells them.")
@click.option("--timeout", type=DURATION, default="120s", help="For one run of either side.")
@click.option("--min-ratio", type=RATE, metavar="R", help="Exit 1 if the throughput ratio of any cell is below R.")
@click.option("--max-p99-ratio", type=RATE, metavar="R", help="Exit 1 if the ratio of p99 of any cell is above R, or one side tells none.")
@click.option("-o", "--output", type=click.Choice(["table", "markdown", "json"]), default="table", help="Format on stdout.")
def versus(
    cells: tuple[str, ...],
    command: str,
    name: str,
    other_durable: str,
    other_bytes: int | None,
    other_nodes: int | None,
    other_processes: int | None,
    rounds: int,
    duration: float,
    warmup: float,
    seed: int,
    sync: str,
    idle: str,
    flags: str,
    timeout: float,
    min_ratio: float | None,
    max_p99_ratio: float | None,
    output: str,
) -> None:
    """Run our cells and another system's in turn, and print how they compare."""
    for flag, value, placeholder in (("--other-bytes", other_bytes, "{bytes}"), ("--other-nodes", other_nodes, "{nodes}")):
        if (value is None) != (placeholder in command):
            raise ConfigError(f"say {flag}, or have --other take {placeholder}, but not both")
    other = Other(name, command, other_durable == "yes", other_bytes, other_nodes, other_processes)
    note_host(Plan(idle=idle))
    plan = Plan(seconds=duration, warmup_seconds=warmup, seed=seed, sync=sync, idle=idle_mode(idle))
    wanted = list(dict.fromkeys(cell for text in cells for cell in parse_cells(text)))
    for cell in wanted:
        refuse(cell, sync, other)
        other.words(cell, duration)
    done: list[Comparison] = []
    runs = 2 * rounds * len(wanted)
    try:
        with idle_cores(plan.idle), progress("comparing") as moving:
            for i, cell in enumerate(wanted):

                def moved(finished: int, i: int = i, cell: Cell = cell) -> None:
                    moving(str(cell), (2 * rounds * i + finished) / runs)

                moved(0)
                done.append(run_rounds(cell, plan, shlex.split(flags), other, rounds, timeout, moved))
                if output == "json":
                    click.echo(msgspec.json.encode(done[-1]))
    finally:  # what was finished before an error or an interrupt stands
        if done and output != "json":
            show(done, output == "markdown")
    if min_ratio is not None:
        judge("--min-ratio", min_ratio, done, "ops_per_s", lambda ratio: ratio < min_ratio)
    if max_p99_ratio is not None:
        judge("--max-p99-ratio", max_p99_ratio, done, "p99_us", lambda ratio: ratio > max_p99_ratio)


def judge(flag: str, limit: float, done: Sequence[Comparison], metric: str, fails: Callable[[float], bool]) -> None:
    """CheckFailed naming the cell that is furthest on the wrong side, or one that one side tells nothing of."""
    untold = [comparison.cell for comparison in done if metric not in comparison.ratios]
    if untold:
        raise CheckFailed(f"{flag} {limit:g}: not every run told of it at {untold[0]} ({len(untold)} of {len(done)})")
    found = [(comparison.ratios[metric].ratio, comparison.cell) for comparison in done]
    wrong = [(ratio, cell) for ratio, cell in found if fails(ratio)]
    if wrong:
        ratio, cell = max(wrong, key=lambda pair: abs(math.log(pair[0] / limit)))
        raise CheckFailed(f"{flag} {limit:g}: {ratio:.2f} at {cell} ({len(wrong)} of {len(done)} beyond)")


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0 fine; 1 beyond --min-ratio or --max-p99-ratio; 2 wrong usage, or cells that do not compare; 3 a run failed;
    130 interrupted."""
    try:
        status = versus.main(arguments, prog_name="versus.py", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return ConfigError.exit_status
    except RafttoyError as error:
        note(f"error: {error}")
        return error.exit_status
    except (click.Abort, KeyboardInterrupt):
        note("error: interrupted")
        return 130
    return status if isinstance(status, int) else 0


if __name__ == "__main__":
    sys.exit(main())
