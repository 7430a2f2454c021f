"""What others found out about Raft pipelines, in direction. Configurations and sources are those of `benchmarks/known_results.py`."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import known_results
from benchmarks.known_results import KNOWN, NOT_KNOWN, Finding, above, mean_ms, model_of, offered, synced_mb_per_s
from rafttoy.pipeline import PIPELINES

ROOT = Path(__file__).resolve().parents[2]


def holds(finding: Finding) -> None:
    assert finding.holds, f"{finding.source}: published {finding.published!r}, ours {finding.ours!r} ({finding.configuration})"


def test_pipelined_appends_hurt_on_a_lan_where_each_is_a_sync() -> None:
    """hashicorp/raft#541"""
    holds(known_results.pipelining_on_a_lan())


def test_followers_that_save_what_waits_with_one_sync_are_not_hurt() -> None:
    """The same load on our own followers; hashicorp/raft#538 proposes it as the remedy of #541."""
    model = model_of("m5d.4xlarge", "disk.sync_us=1000", "links.tcp.delay_us=100")
    few, many = (mean_ms(offered(model, "async-storage", 2000, max_inflight=window, engine="mem")) for window in (1, 128))
    assert many < 1.5 * few


def test_pipelined_appends_help_far_apart() -> None:
    """hashicorp/raft#541: a round trip of 5 ms, a disk of 1 ms."""
    holds(known_results.pipelining_far_apart())


def test_appending_in_parallel_shortens_latency() -> None:
    """cockroach#19229"""
    holds(known_results.parallel_append())


def test_acknowledging_at_commit_raises_throughput() -> None:
    """cockroach#17500"""
    holds(known_results.early_ack())


def test_applying_in_batches_raises_throughput() -> None:
    """cockroach#38568"""
    holds(known_results.batched_apply())


def test_async_storage_writes_raise_throughput_on_a_slow_disk() -> None:
    """etcd#22223"""
    holds(known_results.async_storage_writes())


def test_async_storage_writes_are_a_regression_on_fast_disks() -> None:
    """cockroach#96800"""
    holds(known_results.async_storage_on_fast_disks())


def test_async_storage_writes_shrink_batches_and_cost_bandwidth() -> None:
    """tikv#16907"""
    holds(known_results.async_storage_shrinks_batches())


def test_two_stores_at_the_peak() -> None:
    """cockroach#38322: with one, each sync of the log is of the applied data, too."""
    holds(known_results.two_stores_at_the_peak())


@pytest.mark.xfail(reason="what made two stores slower at low load is not in the model", strict=True)
@pytest.mark.parametrize("finding", NOT_KNOWN, ids=lambda finding: finding.__name__)
def test_what_the_model_does_not_know(finding: Callable[[], Finding]) -> None:
    """cockroach#38322, at low load"""
    holds(finding())


def test_the_apply_side_is_the_ceiling_where_a_store_amplifies_writes() -> None:
    """etcd#14627"""
    holds(known_results.apply_side_ceiling())


def test_reusing_the_log_instead_of_growing_it() -> None:
    """pebble#92: 32 → 138 MB/s. The profile is made of the means of these very figures; through files, they come out again."""
    holds(known_results.reusing_the_log())
    model = model_of("m5d.4xlarge", "disk.handoff_us=0", "disk.cpu_us=0")
    assert synced_mb_per_s(model, reuse=False) == pytest.approx(32, rel=0.05)
    assert synced_mb_per_s(model, reuse=True) == pytest.approx(138, rel=0.05)


def test_pipelines_are_as_before() -> None:
    ours = dict(PIPELINES)
    with known_results.hashicorp() as name:
        assert PIPELINES[name] is not ours[name]
    assert ours == PIPELINES


def test_noise_is_no_direction() -> None:
    assert not above(1.02, 1.0)
    assert above(1.04, 1.0)


def test_the_documentation_has_each_of_them() -> None:
    sources = re.findall(r'^ +"([\w/]+#\d+)",$', Path(known_results.__file__).read_text(), re.MULTILINE)
    assert len(sources) == len(KNOWN) + len(NOT_KNOWN)
    assert sorted(re.findall(r"^\| ([\w/]+#\d+) \|", (ROOT / "docs/predictions.md").read_text(), re.MULTILINE)) == sorted(sources)
