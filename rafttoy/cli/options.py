"""The flags that commands share, and what they become: cells, a plan, a request."""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from rafttoy.cell import IDLE_MODES, MAX_PAYLOAD_BYTES, Cell, Plan
from rafttoy.cli.config import rank, read_config, set_by_user
from rafttoy.cli.types import COUNT, CPUS, DURATION, PEERS, RATE, SETTINGS, Commas, CpuSet
from rafttoy.experiment import Cluster, validate
from rafttoy.ports import SYNC_MODES

__all__ = [
    "Request",
    "busy_poll_option",
    "check_cpus",
    "component_options",
    "config_option",
    "connect_option",
    "cpus_option",
    "data_dir_option",
    "fresh_option",
    "grid_options",
    "id_option",
    "idle_option",
    "keep_option",
    "make_cluster",
    "make_request",
    "metrics_option",
    "model_option",
    "on_cluster",
    "option",
    "output_option",
    "peers_option",
    "run_options",
    "set_option",
    "sync_option",
    "verbose_option",
]

Function = TypeVar("Function", bound=Callable[..., Any])
Decorator = Callable[[Function], Function]

FORMATS = ("table", "gobench", "json", "csv")
_CELL, _PLAN = Cell(), Plan()


def option(name: str, *names: str, **settings: Any) -> Decorator[Any]:
    """A click option that shows its default and can be given as a `RAFTTOY_*` variable."""
    settings.setdefault("show_default", True)
    return click.option(name, *names, envvar=f"RAFTTOY_{name.removeprefix('--').upper().replace('-', '_')}", **settings)


def _load_config(ctx: click.Context, parameter: click.Parameter, path: Path | None) -> None:  # noqa: ARG001
    if path is None:
        return
    group = ctx.parent.command if ctx.parent else None
    assert isinstance(group, click.Group)
    tables: dict[str, list[str]] = {}
    for name in group.list_commands(ctx):
        command = group.get_command(ctx, name)
        assert command is not None
        tables[name] = [parameter.name for parameter in command.params if parameter.name]
    ctx.meta["rafttoy.config"] = str(path)
    ctx.default_map = read_config(path, ctx.info_name or "", tables[ctx.info_name or ""], tables)


config_option = option(
    "--config",
    type=click.Path(path_type=Path),
    is_eager=True,
    expose_value=False,
    callback=_load_config,
    metavar="FILE",
    help="TOML file of options: flags without their dashes, at the top or in a table named like the command.",
)


def output_option(*formats: str) -> Decorator[Any]:
    return option("--output", "-o", type=click.Choice(formats), default=formats[0], help="Format of the data on stdout.")


def model_option(default: str | None, help: str) -> Decorator[Any]:
    return option("--model", metavar="FILE|NAME", default=default, help=help)


class _Repeatable(click.Option):
    """May stand more than once; the items are joined. From a file it comes as one text."""

    def type_cast_value(self, ctx: click.Context, value: Any) -> Any:
        if isinstance(value, str):
            value = (value,)
        return tuple(itertools.chain.from_iterable(super().type_cast_value(ctx, value)))

    def value_from_envvar(self, ctx: click.Context) -> Any:
        return self.resolve_envvar_value(ctx)


set_option = option(
    "--set",
    cls=_Repeatable,
    type=SETTINGS,
    multiple=True,
    show_default=False,
    help="Change costs of the model first: disk.sync_us=50, links.grpc=x0.5, cores=8.",
)
id_option = option("--id", type=COUNT, metavar="N", help="Which of the --peers this process is, from 1.")
peers_option = option("--peers", type=PEERS, help="Addresses of the nodes 1…N, the same list on every one of them.")

_COMPONENTS = (
    ("pipeline", "What a peer does with a Ready, in which order."),
    ("wal", "The log on disk, with --storage split. mem:5ms stands for a disk that takes 5 ms."),
    ("engine", "What entries are applied to, with --storage split."),
    ("storage", "split: --wal and --engine; else one store for both."),
    ("transport", "How peers reach each other."),
)


def component_options(many: bool) -> Decorator[Any]:
    """--pipeline --wal --engine --storage --transport: one name each, or lists."""

    def decorate(function: Function) -> Function:
        for name, text in reversed(_COMPONENTS):
            kind = Commas() if many else click.STRING
            function = option(f"--{name}", type=kind, default=getattr(_CELL, name), metavar="NAME,…" if many else "NAME", help=text)(
                function
            )
        return function

    return decorate


sync_option = option(
    "--sync",
    type=click.Choice(SYNC_MODES),
    default=_PLAN.sync,
    help="How writes are made durable: fdatasync after, O_DSYNC files, or not at all (figures then say nothing about disks).",
)
idle_option = option(
    "--idle",
    type=click.Choice(IDLE_MODES),
    default=_PLAN.idle,
    help="What this host's idle processors do meanwhile: poll for work in the kernel (as root: /dev/cpu_dma_latency), or sleep, from which "
    "each message has to wake them.",
)
data_dir_option = option(
    "--data-dir",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where logs and stores go; without it a temporary directory, removed afterwards.",
)
fresh_option = option("--fresh", is_flag=True, help="Forget what is in --data-dir, instead of going on where the last run there ended.")
keep_option = option("--keep", is_flag=True, help="Keep the peers' data in --data-dir; the next run with it goes on where this one ends.")
metrics_option = option("--metrics", is_flag=True, help="Show the histograms of each run as well (-o json always has them).")
cpus_option = option(
    "--cpus",
    type=CPUS,
    metavar="SET,…",
    help="Processors that peers 1, 2, … are pinned to, round and round: 0,1 or 0-1,2+3; any: not pinned. Without it the event loops of "
    "peers on this host are, the leader's to a processor of its own.",
)
busy_poll_option = option(
    "--busy-poll",
    type=click.Choice(["none", "leader", "all"]),
    default="none",
    help="Who looks for work all the time instead of sleeping: nobody has to wake it, and it takes a core.",
)
connect_option = option(
    "--connect-timeout",
    type=DURATION,
    default=f"{_PLAN.connect_seconds:g}s",
    help="How long to wait for a peer of which nothing is heard; one that still opens its storage is.",
)
verbose_option = option("--verbose", "-v", is_flag=True, help="Tell on stderr what peers do.")

_RUN = (
    component_options(many=True),
    option("--conc", type=Commas(COUNT), default=str(_CELL.conc), metavar="N,…", help="Closed loop: proposals in flight."),
    option("--rate", type=Commas(RATE), metavar="N,…", help="Open loop instead: proposals a second, timed from when they were due."),
    option("--arrival", type=Commas(click.Choice(["poisson", "constant"])), default=_CELL.arrival, help="Of an open loop's proposals."),
    option(
        "--bytes",
        type=Commas(click.IntRange(1, MAX_PAYLOAD_BYTES)),
        default=str(_CELL.bytes),
        metavar="N,…",
        help="Payload of a proposal, in bytes.",
    ),
    option("--nodes", type=Commas(COUNT), default=str(_CELL.nodes), metavar="N,…", help="Size of the cluster."),
    option("--duration", type=DURATION, default=f"{_PLAN.seconds:g}s", help="How long a cell is measured."),
    option("--proposals", type=COUNT, metavar="N", help="Measure so many proposals instead; the first tenth is warm-up."),
    option("--warmup", type=DURATION, default=f"{_PLAN.warmup_seconds:g}s", help="What goes before --duration and does not count."),
    option("--count", type=COUNT, default=1, metavar="N", help="Runs of every cell, with seeds SEED, SEED + 1, …"),
    option("--seed", type=click.IntRange(min=0), default=_PLAN.seed, metavar="N", help="Of all that is random; echoed on stderr."),
    data_dir_option,
    sync_option,
    idle_option,
    connect_option,
    option("--max-inflight", type=COUNT, metavar="N", help="Appends to a follower that may go unanswered (1: no pipelining of appends)."),
    option("--max-message-bytes", type=COUNT, metavar="N", help="Entries that one append carries, in bytes."),
    option("--verify", is_flag=True, help="Check afterwards that all replicas hold what was acknowledged; exit 1 if not."),
    metrics_option,
    verbose_option,
)


_RUN_NAMES = (
    *("pipeline", "wal", "engine", "storage", "transport", "conc", "rate", "arrival", "bytes", "nodes", "duration", "proposals"),
    *(
        "warmup",
        "count",
        "seed",
        "data_dir",
        "sync",
        "idle",
        "connect_timeout",
        "max_inflight",
        "max_message_bytes",
        "verify",
        "metrics",
        "verbose",
        "output",
    ),
)


class Request(msgspec.Struct, frozen=True):
    """What the shared flags ask for."""

    cells: list[Cell]
    plan: Plan
    count: int
    data_dir: Path | None
    output: str
    metrics: bool
    verbose: bool
    flags: dict[str, str]  # all that was set, as text: part of the manifest


def grid_options(*formats: str) -> Decorator[Any]:
    """Adds every flag of a grid of runs, with output in one of `formats`; the function gets a `request` for them."""

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def with_request(**flags: Any) -> None:
            shared = {name: flags.pop(name) for name in _RUN_NAMES}
            function(request=make_request(click.get_current_context(), shared), **flags)

        wrapped = with_request
        for add in reversed((*_RUN, output_option(*formats), config_option)):
            wrapped = add(wrapped)
        return wrapped

    return decorate


run_options = grid_options(*FORMATS)


def make_request(ctx: click.Context, flags: dict[str, Any]) -> Request:
    if prefers(ctx, "rate", "conc"):
        flags["conc"] = ()
    else:
        flags["rate"] = ()
    if not prefers(ctx, "proposals", "duration"):
        flags["proposals"] = 0
    plan = Plan(
        seconds=flags["duration"],
        proposals=flags["proposals"],
        warmup_seconds=flags["warmup"],
        seed=flags["seed"],
        verify=flags["verify"],
        sync=flags["sync"],
        idle=flags["idle"],
        connect_seconds=flags["connect_timeout"],
        max_inflight=flags["max_inflight"] or 0,
        max_message_bytes=flags["max_message_bytes"] or 0,
    )
    cells = grid(flags)
    for cell in cells:
        validate(cell, plan)
    return Request(cells, plan, flags["count"], flags["data_dir"], flags["output"], flags["metrics"], flags["verbose"], set_by_user(ctx))


def make_cluster(id: int | None, peers: tuple[str, ...] | None, transports: Iterable[str]) -> Cluster | None:
    """None when neither is given; UsageError when one is missing, when there is no such node, or a transport that ends at the process."""
    if id is None and peers is None:
        return None
    if id is None or peers is None:
        raise click.UsageError("--id and --peers go together")
    if id > len(peers):
        raise click.UsageError(f"--id {id}: --peers lists {len(peers)} nodes")
    if "mem" in transports:
        raise click.UsageError("--transport mem keeps all peers in one process: it takes no --peers")
    return Cluster(id=id, peers=peers)


def check_cpus(cpus: Sequence[CpuSet], processes: int) -> None:
    """UsageError if they are not this process's to use, or there are more sets than processes to pin."""
    allowed = CpuSet(sorted(os.sched_getaffinity(0)))
    for cpu in sorted({cpu for each in cpus for cpu in each}):
        if cpu not in allowed:
            raise click.UsageError(f"--cpus: no processor {cpu}; there are: {allowed}")
    if len(cpus) > processes:
        raise click.UsageError(
            f"--cpus has {len(cpus)} sets, but there {'is 1 process' if processes == 1 else f'are {processes} processes'}"
        )


def on_cluster(request: Request, cluster: Cluster) -> Request:
    """The same request for a running cluster, whose size is that of --peers. UsageError if another flag says otherwise."""
    ctx = click.get_current_context()
    size = len(cluster.peers)
    for cell in request.cells:
        if rank(ctx, "nodes") and cell.nodes != size:
            raise click.UsageError(f"--nodes {cell.nodes}: --peers lists {size} nodes", ctx)
    cells = list(dict.fromkeys(msgspec.structs.replace(cell, nodes=size) for cell in request.cells))
    return msgspec.structs.replace(request, cells=cells)


def prefers(ctx: click.Context, name: str, other: str) -> bool:
    """Whether `name` holds, of two options of which one must go. UsageError if both were set in the same way (a flag outranks a
    variable, that the file)."""
    mine, others = rank(ctx, name), rank(ctx, other)
    if mine and mine == others:
        raise click.UsageError(f"--{name} and --{other} exclude each other: give one of them", ctx)
    return mine > others


def grid(flags: dict[str, Any]) -> list[Cell]:
    """The product of the lists, loads innermost, so that neighbours can be run by the same processes.

    A combined storage is its own log and engine: such cells stand once, whatever --wal and --engine list."""
    loads = [{"conc": conc} for conc in flags["conc"]]
    loads += [{"rate": rate, "arrival": arrival, "conc": 0} for rate in flags["rate"] for arrival in flags["arrival"]]
    names = ("pipeline", "storage", "wal", "engine", "transport", "nodes", "bytes")
    cells: dict[Cell, None] = {}
    for values in itertools.product(*(flags[name] for name in names)):
        parts = dict(zip(names, values, strict=True))
        if parts["storage"] != "split":
            parts["wal"] = parts["engine"] = parts["storage"]
        for load in loads:
            cells[Cell(**parts, **load)] = None
    return list(cells)
