"""CPU time for each operation: of every process, and within it of the event loop, of the disk threads and of what is left."""

from __future__ import annotations

from collections.abc import Sequence

from rafttoy.control import PeerReport
from rafttoy.observe import BESIDE_LOOP

__all__ = ["cpu_us_per_op"]


def cpu_us_per_op(reports: Sequence[PeerReport], ops: int, *, one_process: bool) -> dict[str, float]:
    """{part: µs for each of `ops` operations}; empty where there were none. The first report is the leader's.

    `leader` and `follower-N` are processes, user and system time together; of each, `/loop` is the thread of its event loop, `/disk`
    those that write to its directory and to its stores, `/rest` all others (gRPC's, the stores' own). `total` is the sum of the
    processes. With `one_process` the peers share one, `leader`."""
    if not ops:
        return {}
    leader, *followers = reports
    processes: list[tuple[str, Sequence[PeerReport]]] = [("leader", reports if one_process else [leader])]
    if not one_process:
        processes += [(f"follower-{report.id}", [report]) for report in sorted(followers, key=lambda report: report.id)]
    out: dict[str, float] = {}
    total_ns = 0
    for name, peers in processes:
        loop_ns, process_ns = peers[0].loop_ns, peers[0].total_ns
        disk_ns = min(sum(map(_disk_ns, peers)), process_ns - loop_ns)  # a disk thread's clock is read now and then
        parts = {"": process_ns, "/loop": loop_ns, "/disk": disk_ns, "/rest": process_ns - loop_ns - disk_ns}
        out |= {name + part: round(ns / 1e3 / ops, 4) for part, ns in parts.items()}
        total_ns += process_ns
    return out | {"total": round(total_ns / 1e3 / ops, 4)}


def _disk_ns(report: PeerReport) -> int:
    stores_ns = sum(stage.cpu_ns for name, stage in report.stages.items() if name.endswith(BESIDE_LOOP))
    return report.counters.get("disk_cpu_ns", 0) + stores_ns
