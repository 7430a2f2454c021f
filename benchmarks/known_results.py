"""Published findings about Raft pipelines, and what the model says of them.

    python benchmarks/known_results.py

Each function is one finding: a configuration made of a shipped hardware profile, the round costs of `SOFTWARE` and what it states
itself, run in the model. What is compared is the direction; the published size stands beside ours to be read, since the systems that it
was measured with are others. Prints the table of `docs/predictions.md`; ends with status 1 if a direction is wrong that is not listed there
as one that the model does not know.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import click
import msgspec

from rafttoy.analysis.models import open_model
from rafttoy.analysis.whatif import apply_settings
from rafttoy.cell import Cell, Plan
from rafttoy.cli.console import run_script
from rafttoy.errors import CheckFailed
from rafttoy.peer import Peer
from rafttoy.pipeline import PIPELINES
from rafttoy.ports import Ports
from rafttoy.raft import LOCAL_APPEND_THREAD, LOCAL_APPLY_THREAD, Message
from rafttoy.run import Measurement
from rafttoy.sim.bench import SimBench
from rafttoy.sim.model import Kv, Linear, LinkWork, Model, Software
from rafttoy.sync import Mailbox
from rafttoy.worlds import run_sim

SOFTWARE = Software(
    stages={
        "ack": Linear(5.0, 0.05),
        "advance": Linear(10.0),
        "client": Linear(10.0, 0.15),
        "engine.apply": Linear(15.0, 0.1),
        "propose": Linear(30.0, 0.2),
        "ready": Linear(15.0),
        "receive": Linear(20.0, 0.0, 0.1),
        "send": Linear(25.0, 0.0, 0.1),
        "wal.encode": Linear(15.0, 0.05),
    },
    kv={kind: Kv(write=Linear(2.2, 0.3, 2.0)) for kind in ("leveldb", "rocksdb", "dict")},
    reads_in_turn=True,
)
"""An interpreter's costs, in round figures."""

ROUNDS = 60
"""Of a closed loop."""

ARRIVALS = 800
"""Of an open one."""


class Finding(msgspec.Struct, frozen=True):
    """`source` is where it was published, `holds` whether the model has the direction."""

    source: str
    configuration: str
    published: str
    ours: str
    holds: bool


# --- models and runs ---------------------------------------------------------------------------------------------------------


def model_of(hardware: str, *settings: str) -> Model:
    """A shipped hardware profile with `SOFTWARE` on it, and `settings` as of `--set`."""
    model = open_model(f"hardware={hardware},software=default")
    links = {name: LinkWork().on(link) for name, link in model.hardware.links.items()}
    hardware_half = msgspec.structs.replace(model.hardware, links=links)
    return apply_settings(msgspec.structs.replace(model, hardware=hardware_half, software=SOFTWARE, calibrated=None), settings)


def closed(model: Model, pipeline: str, conc: int, **cell: str) -> Measurement:
    return _run(model, Cell(**{"pipeline": pipeline, "transport": "tcp", "conc": conc} | cell), Plan(proposals=ROUNDS * conc))  # type: ignore[arg-type]


def offered(model: Model, pipeline: str, rate: float, *, max_inflight: int = 0, **cell: str) -> Measurement:
    """Independent clients: Poisson arrivals, for as long as `ARRIVALS` of them take, but twenty milliseconds at least."""
    seconds = max(0.02, ARRIVALS / rate)
    plan = Plan(seconds=seconds, warmup_seconds=seconds / 5, max_inflight=max_inflight)
    return _run(model, Cell(**{"pipeline": pipeline, "transport": "tcp", "conc": 0, "rate": rate} | cell), plan)  # type: ignore[arg-type]


def _run(model: Model, cell: Cell, plan: Plan) -> Measurement:
    return run_sim(cell, plan, model)


def per_second(run: Measurement) -> float:
    return run.ops / run.seconds


def mean_ms(run: Measurement) -> float:
    return run.latency.mean / 1e6


def batch(run: Measurement) -> float:
    return run.reports[1].metrics["append_batch_sizes"]["mean"]


def log_bytes(run: Measurement) -> float:
    """Written to the leader's log for each proposal."""
    leader = run.reports[1]
    return leader.counters["wal_bytes"] / leader.stages["propose"].entries


def independent(clients: int, model: Model, pipeline: str, between: tuple[float, float], **cell: str) -> float:
    """Proposals a second of so many clients that each wait for their own answer only: the rate at which so many are in flight (Little:
    N = X · R), to within three percent. (The workers of a closed loop here go on together, those that were answered at once.)"""
    low, high = between
    while high > 1.03 * low:
        middle = (low * high) ** 0.5
        if middle * mean_ms(offered(model, pipeline, middle, **cell)) / 1e3 <= clients:  # type: ignore[arg-type]
            low = middle
        else:
            high = middle
    return low


def change(new: float, old: float) -> float:
    return 100 * (new / old - 1)


def above(new: float, old: float) -> bool:
    """By more than what a short run leaves to chance."""
    return new > 1.03 * old


# --- 1: pipelined appends ----------------------------------------------------------------------------------------------------


async def one_sync_an_append(peer: Peer) -> None:
    """As in hashicorp/raft: the leader groups what it saves, a follower saves one append after another, each with a sync of its own.

    Otherwise `async-storage`, whose followers save all that waits with one sync."""
    appends: Mailbox[Message] = Mailbox(peer.tasks)
    applies: Mailbox[Message] = Mailbox(peer.tasks)
    tasks = [peer.spawn(_save(peer, appends), "appender"), peer.spawn(_apply(peer, applies), "applier")]
    try:
        while (rd := await peer.ready()) is not None:
            remote = []
            for message in rd.messages:
                if message.to == LOCAL_APPEND_THREAD:
                    appends.put(message)
                elif message.to == LOCAL_APPLY_THREAD:
                    applies.put(message)
                else:
                    remote.append(message)
            await peer.send(remote)
    finally:
        for task in tasks:
            task.cancel()


async def _save(peer: Peer, mailbox: Mailbox[Message]) -> None:
    while True:
        waiting = await mailbox.take_all()
        for group in [waiting] if peer.is_leader else [[message] for message in waiting]:
            await peer.save_messages(group)
            await peer.deliver([response for message in group for response in message.responses])


async def _apply(peer: Peer, mailbox: Mailbox[Message]) -> None:
    while True:
        messages = await mailbox.take_all()
        committed = [batch for message in messages for batch in message.entries]
        await peer.apply(committed)
        await peer.ack(committed)
        await peer.deliver([response for message in messages for response in message.responses])


@contextlib.contextmanager
def hashicorp() -> Iterator[str]:
    """The name under which that pipeline stands in for another, which a peer gives its log's tasks to."""
    name = "async-storage"
    ours, PIPELINES[name] = PIPELINES[name], one_sync_an_append
    try:
        yield name
    finally:
        PIPELINES[name] = ours


_WINDOWS = (1, 128)


def _windows(model: Model, pipeline: str, rate: float) -> tuple[float, float]:
    """Mean latency in ms with few and with many appends on the way to a follower."""
    few, many = (mean_ms(offered(model, pipeline, rate, max_inflight=window, engine="mem")) for window in _WINDOWS)
    return few, many


def pipelining_on_a_lan() -> Finding:
    model = model_of("m5d.4xlarge", "disk.sync_us=1000", "links.tcp.delay_us=100")
    with hashicorp() as pipeline:
        few, many = _windows(model, pipeline, 2000)
    return Finding(
        "hashicorp/raft#541",
        "one sync an append on followers, 0.2 ms round trip, 1 ms disk, 2,000/s; 128 appends in flight instead of 1",
        "slower on a LAN",
        f"mean latency {few:.1f} → {many:.1f} ms",
        above(many, few),
    )


def pipelining_far_apart() -> Finding:
    model = model_of("m5d.4xlarge", "disk.sync_us=1000", "links.tcp.delay_us=2500")
    with hashicorp() as pipeline:
        few, many = _windows(model, pipeline, 200)
    return Finding(
        "hashicorp/raft#541",
        "the same, 5 ms round trip, 200/s",
        "faster with 5 ms and a 1 ms disk",
        f"mean latency {few:.1f} → {many:.1f} ms",
        above(few, many),
    )


# --- 2: order and batches ----------------------------------------------------------------------------------------------------


def parallel_append() -> Finding:
    model = model_of("m5d.4xlarge")
    before, after = (mean_ms(closed(model, pipeline, 64)) for pipeline in ("basic", "parallel-append"))
    return Finding(
        "cockroach#19229",
        "local SSD, 64 clients: parallel-append instead of basic",
        "mean latency 5 to 15 % lower",
        f"{change(after, before):+.0f} %",
        above(before, after),
    )


def early_ack() -> Finding:
    model = model_of("m5d.4xlarge")
    before, after = (independent(64, model, pipeline, (20_000, 160_000)) for pipeline in ("parallel-append", "parallel-append-early-ack"))
    return Finding(
        "cockroach#17500",
        "local SSD, 64 independent clients: parallel-append-early-ack instead of parallel-append",
        "throughput +8 %",
        f"{change(after, before):+.0f} %",
        above(after, before),
    )


def batched_apply() -> Finding:
    """One by one, each entry is a batch of its own: it costs what a batch of one does."""
    batched = model_of("m5d.4xlarge")
    write = batched.software.kv["leveldb"].write
    one_by_one = apply_settings(batched, ["kv.leveldb.write.fixed_us=0", f"kv.leveldb.write.entry_us={write.fixed_us + write.entry_us}"])
    before, after = (per_second(closed(model, "parallel-append", 128)) for model in (one_by_one, batched))
    return Finding(
        "cockroach#38568",
        "local SSD, 128 clients, parallel-append: entries applied as one batch instead of as one each",
        "throughput +49 %",
        f"{change(after, before):+.0f} %",
        above(after, before),
    )


# --- 3: asynchronous storage writes ------------------------------------------------------------------------------------------


def async_storage_writes() -> Finding:
    model = model_of("gp3", "stages.propose.entry_us=30", "stages.engine.apply.entry_us=30")
    before, after = (independent(64, model, pipeline, (4_000, 32_000), wal="etcd") for pipeline in ("async-apply", "async-storage"))
    return Finding(
        "etcd#22223",
        "gp3 volumes, etcd's log, 60 µs of the leader's loop a put, 64 independent clients: async-storage instead of async-apply",
        "+25 % (10.0k → 12.5k/s)",
        f"{change(after, before):+.0f} % ({before / 1e3:.1f}k → {after / 1e3:.1f}k/s)",
        above(after, before),
    )


def async_storage_on_fast_disks() -> Finding:
    """What the source measured is throughput, of clients that each wait for their own answer."""

    def both(sync_us: int) -> list[float]:
        model = model_of("m5d.4xlarge", f"disk.sync_us={sync_us}", "disk.handoff_us=10")
        return [independent(64, model, pipeline, (20_000, 160_000)) for pipeline in ("parallel-append", "async-storage")]

    before, after = both(10)
    slower_before, slower_after = both(100)
    return Finding(
        "cockroach#96800",
        "local SSD without barriers (a sync in 10 µs, hand-off 10 µs), 64 independent clients: async-storage instead of parallel-append",
        "throughput falls where syncs are that fast, and not on another cloud's disks",
        f"{change(after, before):+.0f} %; with a sync in 100 µs {change(slower_after, slower_before):+.0f} %",
        above(before, after) and above(slower_after, slower_before),
    )


def async_storage_shrinks_batches() -> Finding:
    model = model_of("gp3")
    before, after = (offered(model, pipeline, 12_000) for pipeline in ("parallel-append", "async-storage"))
    return Finding(
        "tikv#16907",
        "gp3 volumes, 12,000/s: async-storage instead of parallel-append",
        "smaller batches, about 10 % more bandwidth",
        f"{batch(before):.1f} → {batch(after):.1f} entries a write, {change(log_bytes(after), log_bytes(before)):+.0f} % bytes",
        above(batch(before), batch(after)) and above(log_bytes(after), log_bytes(before)),
    )


# --- 4, 5: stores ------------------------------------------------------------------------------------------------------------


def _stores(conc: int) -> tuple[float, float]:
    """Proposals a second with one store for log and data, and with two."""
    model = model_of("m5d.4xlarge")
    one = closed(model, "parallel-append", conc, storage="leveldb", wal="leveldb", engine="leveldb")
    two = closed(model, "parallel-append", conc, wal="leveldb", engine="leveldb")
    return per_second(one), per_second(two)


def two_stores_at_low_load() -> Finding:
    one, two = _stores(64)
    return Finding(
        "cockroach#38322",
        "local SSD, parallel-append, 64 clients: two stores instead of one",
        "11 to 36 % slower with 32 to 128 clients",
        f"throughput {change(two, one):+.0f} %",
        above(one, two),
    )


def two_stores_at_the_peak() -> Finding:
    one, two = _stores(2048)
    return Finding(
        "cockroach#38322",
        "local SSD, parallel-append, 2,048 clients: two stores instead of one",
        "about twice as fast at the peak",
        f"throughput {change(two, one):+.0f} %",
        above(two, one),
    )


AMPLIFICATION = 15
"""Bytes that a log-structured store writes, sooner or later, for each that is put."""


def apply_side_ceiling() -> Finding:
    """A store that is put to faster than its compactions can write throttles its writers: in the long run a byte costs what all the writes
    that it leads to cost."""
    model = model_of("m5d.4xlarge")
    model = apply_settings(model, [f"kv.leveldb.write.byte_ns={AMPLIFICATION * model.hardware.disk.byte_ns}"])
    store, memory = (per_second(closed(model, "async-apply", 2048, wal="etcd", engine=engine)) * 256e-6 for engine in ("leveldb", "mem"))
    return Finding(
        "etcd#14627",
        f"local SSD, etcd's log, async-apply, 2,048 clients; an engine that writes each byte {AMPLIFICATION} times, or one in memory",
        "the engine, not the log, is the ceiling, at about 50 MB/s",
        f"{store:.0f} MB/s, in memory {memory:.0f}",
        above(memory, store),
    )


# --- 6: reusing the log's file -----------------------------------------------------------------------------------------------


def synced_mb_per_s(model: Model, *, reuse: bool, count: int = 500) -> float:
    """4 KiB synced writes one after another, over space that was written before or behind the file's end."""
    spent_ns = 0

    async def main(ports: Ports) -> None:
        nonlocal spent_ns
        file = await ports.files.open("log", create=True, preallocate=count * 4096 if reuse else 0, prewrite=reuse)
        begin_ns = ports.clock.now_ns()
        for i in range(count):
            await file.pwritev(i * 4096, [bytes(4096)], sync=True)
        spent_ns = ports.clock.now_ns() - begin_ns

    with SimBench(model) as bench:
        bench.run(main)
    return count * 4096 / spent_ns * 1e3


def reusing_the_log() -> Finding:
    model = model_of("m5d.4xlarge", "disk.handoff_us=0", "disk.cpu_us=0")
    grown, reused = (synced_mb_per_s(model, reuse=reuse) for reuse in (False, True))
    return Finding(
        "pebble#92",
        "local SSD, 4 KiB synced writes by the thread that syncs: over a reused file instead of a growing one",
        "about 4 times (32 → 138 MB/s)",
        f"{reused / grown:.1f} times ({grown:.0f} → {reused:.0f} MB/s)",
        above(reused, grown),
    )


KNOWN: Sequence[Callable[[], Finding]] = (
    pipelining_on_a_lan,
    pipelining_far_apart,
    parallel_append,
    early_ack,
    batched_apply,
    async_storage_writes,
    async_storage_on_fast_disks,
    async_storage_shrinks_batches,
    apply_side_ceiling,
    reusing_the_log,
    two_stores_at_the_peak,
)

NOT_KNOWN: Sequence[Callable[[], Finding]] = (two_stores_at_low_load,)
"""What made two stores slower at low load is not told, and is not in the model."""


@click.command()
def main() -> None:
    """Print the table."""
    click.echo("| source | configuration | published | ours | |\n|---|---|---|---|---|")
    wrong = []
    for known in (*KNOWN, *NOT_KNOWN):
        found = known()
        if not found.holds and known in KNOWN:
            wrong.append(found)
        verdict = "yes" if found.holds else "**no**"
        click.echo(f"| {found.source} | {found.configuration} | {found.published} | {found.ours} | {verdict} |")
    if wrong:
        raise CheckFailed("the wrong direction: " + "; ".join(f"{found.source}: {found.ours}" for found in wrong))


if __name__ == "__main__":
    run_script(main)
