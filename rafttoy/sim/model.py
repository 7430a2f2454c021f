"""What the model charges: a calibrated file, validated on load.

A model has a *hardware* half (cores, disk, links) and a *software* half (stages, key-value stores). In the file, times are in the
unit that the key ends with; in memory the struct keeps them so, and the users of a cost turn it into integer nanoseconds once.
"""

from __future__ import annotations

import math
import tomllib
from bisect import bisect_right
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np

from rafttoy.errors import ConfigError, unknown
from rafttoy.ports import KV_BUFFER_BYTES, KV_PAIR_BYTES

__all__ = [
    "Calibrated",
    "Disk",
    "DiskUse",
    "Hardware",
    "Interruptions",
    "Kv",
    "Linear",
    "Link",
    "LinkWork",
    "Meta",
    "Model",
    "Software",
    "load_model",
    "parse_model",
]

Cost = Annotated[float, msgspec.Meta(ge=0, le=5e6)]
"""In µs, at most five seconds. More is a wrong unit."""

EntryCost = Annotated[float, msgspec.Meta(ge=0, le=1e5)]
"""In µs an entry, at most 0.1 s."""

ByteCost = Annotated[float, msgspec.Meta(ge=0, le=1e5)]
"""In ns a byte, at most 0.1 ms: 10 kB/s."""

Factor = Annotated[float, msgspec.Meta(ge=0, le=1000)]

Width = Annotated[float, msgspec.Meta(ge=0.1, le=5)]
"""The power that the distance of a quantile from the median is taken to."""

_RARE_PERCENT = 99.0

Percent = Annotated[float, msgspec.Meta(ge=0, le=100)]

Count = Annotated[int, msgspec.Meta(ge=1, le=100_000)]


def interpolated(at: Sequence[float], values: Sequence[float], x: float) -> float:
    """The value at `x` of a curve through (`at`, `values`), straight over the logarithm, level beyond its ends; 1 where there is none."""
    if not at:
        return 1.0
    i = bisect_right(at, x)
    if not i or i == len(at):
        return values[max(0, i - 1)]
    below, above = math.log2(at[i - 1] + 1), math.log2(at[i] + 1)
    share = (math.log2(x + 1) - below) / (above - below)
    return values[i - 1] + (values[i] - values[i - 1]) * share


def _check_curve(at: Sequence[float], values: Sequence[float], prefix: str = "") -> None:
    if len(at) != len(values):
        raise ValueError(f"{prefix}at has {len(at)} values, {prefix}times {len(values)}")
    if list(at) != sorted(set(at)):
        raise ValueError(f"{prefix}at ascends")


def _check_disk_curves(at: Sequence[float], times: Sequence[float], spreads: Sequence[float]) -> None:
    _check_curve(at, times)
    if spreads and len(spreads) != len(at):
        raise ValueError(f"at has {len(at)} values, spreads {len(spreads)}")


def _check_quantiles(name: str, values: Sequence[float], percent: Sequence[float], percent_name: str = "") -> None:
    percent_name = percent_name or f"{name}_percent"
    if len(percent) != len(values):
        raise ValueError(f"{percent_name} has {len(percent)} values, {name} {len(values)}")
    if list(percent) != sorted(percent) or percent[0] != 0 or percent[-1] != 100:
        raise ValueError(f"{percent_name} ascends from 0 to 100")
    if list(values) != sorted(values):
        raise ValueError(f"{name} ascends, as quantiles do")


def _evenly(count: int) -> list[float]:
    return [100.0 * i / (count - 1) for i in range(count)]


class Linear(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Cost of one execution: `fixed_us + entry_us * entries + byte_ns * bytes / 1000`, in microseconds; where the work is no straight line
    (a few entries are handled one by one, more of them as an array) times what stands in `times` for the number of entries in `at`,
    interpolated over its logarithm."""

    fixed_us: Cost = 0.0
    entry_us: EntryCost = 0.0
    byte_ns: ByteCost = 0.0
    at: tuple[Annotated[float, msgspec.Meta(ge=0)], ...] = ()
    times: tuple[Factor, ...] = ()

    def __post_init__(self) -> None:
        _check_curve(self.at, self.times)

    def factor(self, entries: float) -> float:
        return interpolated(self.at, self.times, entries)

    def exact_ns(self, entries: float, nbytes: float) -> float:
        return (1000.0 * (self.fixed_us + self.entry_us * entries) + self.byte_ns * nbytes) * self.factor(entries)

    def cost_ns(self, entries: int, nbytes: int) -> int:
        return int(self.exact_ns(entries, nbytes))


class Disk(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One device, shared by every peer of a host.

    sync_us            quantiles, at `sync_percent`, of a 4 KiB write over preallocated space with its fdatasync, alone
    sync_percent       from 0 to 100, ascending; dense where the tail is, for the rare stall of a device must stay rare (default: even)
    grow_us            what a write adds to that which grows its file, or is the first one to its place in reserved space
    byte_ns            what each byte beyond the first 4 KiB adds
    write_us           a write that is not synced
    read_us            a read
    concurrency        factor on the sync with 1, 2, 3 … at once (the last one holds for more)
    handoff_us         from the loop to the disk thread and back
    loop_us            what the hand-off to a disk thread costs the loop: to hear of the end, and to go on there
    cpu_us             core time of a synced write, off the loop or on it
    cpu_byte_ns        what each of its bytes adds to that
    at, times          factor on the sync by the bytes that are written: how it is under the load that comes with so many
    spreads            there, how much wider than `sync_us` the distribution is: each quantile is its distance from the median to this
                       power (2: one of twice the median takes four times as long), up to that of 99 %; those beyond take longer than it by
                       as much as alone: the stall of a device does not last longer for the load. (Beside LevelDB the slowest save in a
                       hundred takes 2.3 times the median with 2 proposals in flight, 4.3 times with 200; without: as wide as alone)
    """

    sync_us: Annotated[list[Cost], msgspec.Meta(min_length=2)]
    byte_ns: ByteCost
    write_us: Cost
    handoff_us: Cost
    sync_percent: list[Percent] = msgspec.field(default_factory=list)
    grow_us: Cost = 0.0
    read_us: Cost = 10.0
    concurrency: Annotated[list[Factor], msgspec.Meta(min_length=1)] = msgspec.field(default_factory=lambda: [1.0])
    cpu_us: Cost = 0.0
    cpu_byte_ns: ByteCost = 0.0
    at: tuple[Annotated[float, msgspec.Meta(ge=0)], ...] = ()
    times: tuple[Factor, ...] = ()
    spreads: tuple[Width, ...] = ()
    loop_us: Cost = 0.0

    def __post_init__(self) -> None:
        _check_disk_curves(self.at, self.times, self.spreads)
        _check_quantiles("sync_us", self.sync_us, self.percents(), "sync_percent")

    def percents(self) -> list[float]:
        """Where the quantiles stand."""
        return self.sync_percent or _evenly(len(self.sync_us))

    def widened(self) -> Callable[[float, float], float]:
        """What a sync takes (in the unit of what is given) that takes so much alone, where so many bytes are written: as wide as `spreads`
        makes it, times what `times` says."""
        percents = self.percents()
        at, times, spreads = self.at, self.times, self.spreads
        median_us, slow_us = (float(np.interp(percent, percents, self.sync_us)) for percent in (50.0, _RARE_PERCENT))

        def of(sync_us: float, nbytes: float) -> float:
            if not at:
                return sync_us
            if spreads and median_us:
                beyond_us = max(0.0, sync_us - slow_us)
                sync_us = median_us * ((sync_us - beyond_us) / median_us) ** interpolated(at, spreads, nbytes) + beyond_us
            return sync_us * interpolated(at, times, nbytes)

        return of


class Link(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One transport between two peers.

    delay_us               one way, of a small packet, beyond the loops' own work
    byte_ns                what each byte adds on the wire
    send / receive         work on the sender's and the receiver's loop, a packet
    wake_us                work of a loop each time that it turns to what has arrived, one packet or several (leaders get two packets a
                           round and followers one, and yet the loops of both spend as much on them)
    background             core time off both loops (transport threads, kernel), a packet, on each side
    """

    delay_us: Cost
    byte_ns: ByteCost = 0.0
    send: Linear = Linear()
    receive: Linear = Linear()
    wake_us: Cost = 0.0
    background: Linear = Linear()


class LinkWork(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of a `Link`, what the code does. `late_us` comes on top of its delay: packets that go through threads of the transport wait for the
    interpreter's lock, and the more threads a peer has the longer (gRPC, 24 in flight: +3 % beside a log in memory without, +31 beside one
    in files)."""

    send: Linear = Linear()
    receive: Linear = Linear()
    wake_us: Cost = 0.0
    background: Linear = Linear()
    late_us: Cost = 0.0

    def on(self, link: Link) -> Link:
        return msgspec.structs.replace(
            link,
            delay_us=link.delay_us + self.late_us,
            send=self.send,
            receive=self.receive,
            wake_us=self.wake_us,
            background=self.background,
        )


_SHARES = [(i + 0.5) / 32 for i in range(32)]


class Kv(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A key-value store: `write` is the work of one batch; a sync adds a disk sync, scaled by `sync_factor`. A batch that is written on the
    store's own thread waits for `stall_byte_ns` a byte besides: for flushes and compactions, in the mean. Those have threads of their own,
    whose core time is `background` of the pairs that were put (proposals of 4 KiB: half of all core time of a group on LevelDB): all at
    once whenever a buffer of `flush_bytes` is full, during which the store fills another one, and no more (with 1,024 clients a group on
    LevelDB took 92,000/s in a run of a second and a half, which sees no flush, 65,000 in one of three); 0 is as it comes. An
    insertion is dearer the more the buffer holds (a skiplist of 200,000 pairs that no cache holds): times what stands in `pairs_times`
    for the number of pairs in `pairs_at`, as in `Linear` (of 800 clients on LevelDB each put took 3.1 µs with 40,000 pairs there, 6.0 with
    130,000; 200 clients got 123,000/s with an empty buffer, 76,000 with a full one)."""

    write: Linear
    pairs_at: tuple[Annotated[float, msgspec.Meta(ge=0)], ...] = ()
    pairs_times: tuple[Factor, ...] = ()
    read: Linear = Linear(fixed_us=5.0)
    stall_byte_ns: ByteCost = 0.0
    background: Linear = Linear()
    flush_bytes: Annotated[int, msgspec.Meta(ge=0)] = 0
    sync_factor: Factor = 1.0

    def __post_init__(self) -> None:
        _check_curve(self.pairs_at, self.pairs_times, "pairs_")

    def write_ns(self, count: float, nbytes: float, buffered_pairs: float) -> float:
        """The work of a batch of so many pairs, where the buffer holds so many already."""
        return self.write.exact_ns(count, nbytes) * interpolated(self.pairs_at, self.pairs_times, buffered_pairs)

    def mean_times(self, pair_bytes: float) -> float:
        """The mean of `pairs_times` while a buffer fills with pairs of keys and values of `pair_bytes`."""
        most = KV_BUFFER_BYTES / (pair_bytes + KV_PAIR_BYTES)
        return float(np.mean([interpolated(self.pairs_at, self.pairs_times, share * most) for share in _SHARES]))


class Interruptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of a core that has work, by the hypervisor and by interrupts: how many a second, and quantiles, at `percent`, of how long they last.
    Those are dense where the tail is (default: even): with deciles alone, the last from 1 to 16 ms, the slowest hundredth of sixteen in
    flight took 8 ms, measured 3."""

    per_s: Annotated[float, msgspec.Meta(gt=0, le=1e4)]
    us: Annotated[list[Cost], msgspec.Meta(min_length=2)]
    percent: list[Percent] = msgspec.field(default_factory=list)

    def __post_init__(self) -> None:
        _check_quantiles("us", self.us, self.percents(), "percent")

    def percents(self) -> list[float]:
        """Where the quantiles stand."""
        return self.percent or _evenly(len(self.us))


class Hardware(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`hosts`: all peers share `one` host, its cores and its disk, or `each` has a host of its own.

    pace               standard deviation of the logarithm of how long work takes now beside how long it takes in the mean, on all cores
                       together: a host is a little faster, then a little slower (caches, other guests). Rounds that follow one another are
                       alike (in memory, 24 in flight: the correlation of their logarithms is 0.74, of those ten rounds apart 0.6), and
                       what stages draw each by itself averages out within a round: the slowest in a hundred took 1.3 times the median,
                       measured 1.8"""

    cores: Count
    disk: Disk
    links: dict[str, Link]
    hosts: Literal["one", "each"] = "one"
    interruptions: Interruptions | None = None
    pace: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0


class DiskUse(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of a `Disk`, how it is under a group of peers: what takes the place of its own."""

    loop_us: Cost = 0.0
    at: tuple[Annotated[float, msgspec.Meta(ge=0)], ...] = ()
    times: tuple[Factor, ...] = ()
    spreads: tuple[Width, ...] = ()

    def __post_init__(self) -> None:
        _check_disk_curves(self.at, self.times, self.spreads)

    def on(self, disk: Disk) -> Disk:
        disk = msgspec.structs.replace(disk, loop_us=self.loop_us)
        return msgspec.structs.replace(disk, at=self.at, times=self.times, spreads=self.spreads) if self.at else disk


class Costs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What differs in one group of peers from what holds for all: stages by name, stores by kind, the work of its link, and its disk."""

    stages: dict[str, Linear] = msgspec.field(default_factory=dict)
    kv: dict[str, Kv] = msgspec.field(default_factory=dict)
    links: dict[str, LinkWork] = msgspec.field(default_factory=dict)
    disk: DiskUse | None = None


class Software(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`stages` by name, `kv` by kind of store; `groups` by storage and transport (`file+leveldb tcp`): code that runs after a wait for a
    disk finds caches colder, and the same stage takes up to twice the CPU time (`propose` of 200: 63 µs beside a log in memory, 132 µs
    beside one in a file); `send` of 200 is 70 µs over tcp and 26 over gRPC, whose threads do the rest, and take half as long beside a log
    in memory as beside one in files.

    A stage that does another work for each component has the component's name behind its own
    (`wal.encode.etcd`); what a model has under the shorter name holds for all that it does not name.

    spread             quantiles, at `spread_percent`, of what one execution of a stage, or one batch of a store, takes over the mean of its
                       kind: whatever the stage, half take less than 0.92, one in twenty more than 1.5, one in a hundred more than 2.4
                       (without: all take the mean)
    lock_us            for how long at most a busy loop keeps the threads beside it from beginning and from saying that they have ended:
                       CPython's lock (`sys.getswitchinterval`); 0 where there is none. async-storage on files, whose loop never waits for
                       its saves, was 27 % and 40 % too fast with 16 and 128 proposals in flight without, 15 and 27 with
    placed             whether the event loops of peers that share a host keep to cores, as those of `rafttoy bench` do (`core_of`)
    reads_in_turn      whether a loop reads packets itself, once its tasks wait, as asyncio does; else they are handed over as they arrive,
                       by threads beside it (goroutines). A pipeline that found a packet at each of its turns went on before its own
                       applier: of 4,096 in flight in memory the simulated leader applied 15,000 at once, the real one never more than
                       4,096
    commit_broadcast   whether a leader sends every follower an append of its own for each commit, as etcd/raft does and ours does
                       not: the Go original's cells were 24.0 % off without it, 20.0 with"""

    stages: dict[str, Linear]
    kv: dict[str, Kv]
    groups: dict[str, Costs] = msgspec.field(default_factory=dict)
    spread: list[Factor] = msgspec.field(default_factory=list)
    spread_percent: list[Percent] = msgspec.field(default_factory=list)
    lock_us: Cost = 0.0
    placed: bool = False
    reads_in_turn: bool = False
    commit_broadcast: bool = False

    def __post_init__(self) -> None:
        if self.spread or self.spread_percent:
            _check_quantiles("spread", self.spread, self.spread_percent)

    def stage(self, name: str) -> Linear | None:
        """The cost of a stage, or of what it is a variant of; None for one that the model lacks."""
        cost = self.stages.get(name)
        return cost if cost is not None else self.stages.get(name.rpartition(".")[0])


class Meta(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    host: str = ""
    date: str = ""
    method: str = ""
    confidence: str = ""


class Calibrated(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a model was fitted on, and how well: the smallest and the largest, or all, of what the training cells had.

    error_pct   standard error of the fits of `disk`, `links`, `stages` and `kv`, in percent of their costs
    """

    conc: tuple[Count, Count]
    bytes: tuple[Annotated[int, msgspec.Meta(ge=1)], Annotated[int, msgspec.Meta(ge=1)]]
    nodes: tuple[Count, Count] = (3, 3)
    transports: list[str] = msgspec.field(default_factory=list)
    storages: list[str] = msgspec.field(default_factory=list)
    error_pct: dict[Literal["disk", "links", "stages", "kv"], Annotated[float, msgspec.Meta(ge=0, le=100)]] = msgspec.field(
        default_factory=dict
    )


class Model(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """`calibrated` is missing where costs come from published figures."""

    meta: Meta
    hardware: Hardware
    software: Software
    calibrated: Calibrated | None = None

    def on(self, group: str) -> Model:
        """The model for cells of that group (`Cell.group_name()`). Of one that it does not know it takes the stages, stores and disk of
        another with the same storage, if there is one."""
        groups, storage = self.software.groups, group.rpartition(" ")[0]
        own = groups.get(group) or next((costs for name, costs in groups.items() if name.rpartition(" ")[0] == storage), None)
        if own is None:
            return self
        links = {name: own.links[name].on(link) if name in own.links else link for name, link in self.hardware.links.items()}
        disk = own.disk.on(self.hardware.disk) if own.disk is not None else self.hardware.disk
        return msgspec.structs.replace(
            self,
            hardware=msgspec.structs.replace(self.hardware, links=links, disk=disk),
            software=msgspec.structs.replace(
                self.software, stages={**self.software.stages, **own.stages}, kv={**self.software.kv, **own.kv}, groups={}
            ),
        )

    def steady(self, pair_bytes: int) -> Model:
        """The model whose stores flush as bytes come, and cost what they do in the mean while a buffer fills with pairs of keys and values
        of `pair_bytes`: what holds in the long run is seen by short ones, too."""
        kv = {}
        for kind, store in self.software.kv.items():
            mean = (round(store.mean_times(pair_bytes), 3),) if store.pairs_at else ()
            kv[kind] = msgspec.structs.replace(store, flush_bytes=0, pairs_at=store.pairs_at[:1], pairs_times=mean)
        return msgspec.structs.replace(self, software=msgspec.structs.replace(self.software, kv=kv))


_NAMED: dict[str, tuple[type[msgspec.Struct], tuple[str, ...]]] = {
    "links": (Link, ("grpc", "tcp", "mem")),
    "kv": (Kv, ("leveldb", "rocksdb", "dict")),
    "stages": (Linear, ()),
    "groups": (Costs, ()),
}
"""Tables whose keys are names: of what kind, and which there are (any, where none is listed)."""


def parse_model(document: dict[str, Any], where: str) -> Model:
    """Raises ConfigError naming the file and the key for anything missing, unknown, negative or absurd."""
    try:
        model = msgspec.convert(document, Model)
    except msgspec.ValidationError as error:
        raise ConfigError(f"model {where}: {_with_name(str(error), document)}") from None
    for table, names in (("hardware.links", model.hardware.links), ("software.kv", model.software.kv)):
        known = _NAMED[table.rpartition(".")[2]][1]
        for name in names:
            if name not in known:
                raise unknown(f"model {where}: {table}", name, known)
    return model


def _with_name(message: str, document: dict[str, Any]) -> str:
    """msgspec writes `[...]` for a name in a table: the first one whose content is refused takes its place."""
    before, found, after = message.partition("[...]")
    keys = before.rpartition("`$.")[2].split(".")
    if not found or keys[-1] not in _NAMED:
        return message
    table: Any = document
    for key in keys:
        table = table[key]
    for name, content in table.items():
        try:
            msgspec.convert(content, _NAMED[keys[-1]][0])
        except msgspec.ValidationError:
            return f"{before}.{name}{after}"
    return message


def load_model(path: Path) -> Model:
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"model {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"model {path}: not TOML: {error}") from None
    return parse_model(document, str(path))
