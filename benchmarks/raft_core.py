"""The Raft cores of a three-node group alone: messages passed by hand, logs in memory, one thread, classic mode.

    python benchmarks/raft_core.py                     batches of 1, 16, 256 and 4096 entries of 256 B
    python benchmarks/raft_core.py --batch 256 --seconds 5
    python benchmarks/raft_core.py --profile 1         where the time goes, for batches of one

Each round proposes one batch and passes every message by hand until nothing is left to do: all three cores have committed and applied
it, and all answers have arrived. `us/batch` is the whole cost of that on all three cores. It has three parts. `propose` gives the
entries their places in the log, which copies them at C speed into fresh memory, so it grows with their bytes. `let go` frees that
memory when the log is compacted. `raft`, everything that three nodes do with the batch, does not look at entries and stays the same.
Times are of the thread's CPU, so that other processes disturb less.
"""

from __future__ import annotations

import argparse
import cProfile
import gc
import pstats
import statistics
import sys
from time import thread_time_ns

from rafttoy.raft import Config, MemoryStorage, Message, Payloads, RawNode

_PEERS = (1, 2, 3)


class Group:
    """Three nodes; node 1 leads."""

    def __init__(self) -> None:
        self.storages = {id: MemoryStorage() for id in _PEERS}
        self.nodes = {
            id: RawNode(Config(id, self.storages[id], max_size_per_msg=64 << 20, check_quorum=True, pre_vote=True)) for id in _PEERS
        }
        for node in self.nodes.values():
            node.bootstrap(_PEERS)
        self.pump()
        self.nodes[1].campaign()
        self.pump()
        assert self.nodes[1].lead == self.nodes[2].lead == 1

    def pump(self) -> None:
        """Handles Readys and delivers messages until there are none."""
        nodes = self.nodes
        busy = True
        while busy:
            busy = False
            outgoing: list[Message] = []
            for id, node in nodes.items():
                while node.has_ready():
                    rd = node.ready()
                    storage = self.storages[id]
                    if rd.hard_state is not None:
                        storage.set_hard_state(rd.hard_state)
                    if rd.entries:
                        storage.append(rd.entries)
                    outgoing += rd.messages
                    node.advance(rd)
                    busy = True
            for m in outgoing:
                nodes[m.to].step(m)

    def compact(self) -> None:
        """Applied entries are let go, so that the run needs no memory."""
        for id, node in self.nodes.items():
            if node.applied >= self.storages[id].first_index():
                self.storages[id].compact(node.applied)


def measure(batch: int, size: int, seconds: float) -> dict[str, float]:
    """Throughput and cost of batches of `batch` entries of `size` bytes, over `seconds`; medians of ten parts."""
    group = Group()
    leader = group.nodes[1]
    payloads = Payloads(batch, bytes(batch * size), size)
    whole, proposing, freeing = [], [], []
    for _ in range(10):
        rounds = propose_ns = free_ns = 0
        start = now = thread_time_ns()
        while now - start < seconds * 1e8:
            for _ in range(8):
                before = thread_time_ns()
                leader.propose(payloads)
                propose_ns += thread_time_ns() - before
                group.pump()
            rounds += 8
            before = thread_time_ns()
            group.compact()
            now = thread_time_ns()
            free_ns += now - before
        whole.append((now - start) / rounds)
        proposing.append(propose_ns / rounds)
        freeing.append(free_ns / rounds)
    assert group.nodes[3].commit == leader.commit == leader.last_index
    us, propose_us, free_us = (statistics.median(ns) / 1e3 for ns in (whole, proposing, freeing))
    return {"us": us, "propose_us": propose_us, "free_us": free_us, "raft_us": us - propose_us - free_us}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="*", default=[1, 16, 256, 4096], help="entries a proposal batch")
    parser.add_argument("--bytes", type=int, default=256, help="payload of an entry")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--profile", type=int, metavar="BATCH", help="print where the time goes instead")
    args = parser.parse_args()
    gc.freeze()
    if args.profile:
        with cProfile.Profile() as profile:
            measure(args.profile, args.bytes, args.seconds)
        pstats.Stats(profile, stream=sys.stdout).sort_stats("tottime").print_stats(32)
        return
    print(f"{'batch':>6} {'us/batch':>9} {'propose':>9} {'let go':>9} {'raft':>9} {'batches/s':>10} {'entries/s':>12}")
    for batch in args.batch:
        r = measure(batch, args.bytes, args.seconds)
        parts = f"{r['us']:>9.1f} {r['propose_us']:>9.1f} {r['free_us']:>9.1f} {r['raft_us']:>9.1f}"
        print(f"{batch:>6} {parts} {1e6 / r['us']:>10,.0f} {batch * 1e6 / r['us']:>12,.0f}")


if __name__ == "__main__":
    main()
