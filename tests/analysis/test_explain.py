"""What binds, what would bind next, what changes give: on models where the answer is plain."""

from __future__ import annotations

import msgspec
import pytest

from rafttoy.analysis.explain import Explanation, WhatIf, explain
from rafttoy.analysis.explain_text import explanation_text
from rafttoy.analysis.plans import brief
from rafttoy.analysis.whatif import apply_settings
from rafttoy.cell import Cell, Plan
from rafttoy.errors import ConfigError
from rafttoy.experiment import run_grid
from rafttoy.sim.model import Linear, Model
from tests.analysis.beds import make_model

ROUNDS = 16


def explained(model: Model, cell: Cell, settings: tuple[str, ...] = ()) -> Explanation:
    return explain(cell, model, Plan(), settings=settings, rounds=ROUNDS)


def what_if(found: Explanation, ask: str) -> WhatIf:
    return next(one for one in found.what_ifs if one.ask == ask)


SLOW_DISK = make_model(sync_us=10_000, delay_us=20, stage_us=5, hosts="one")
"""Two syncs of 10 ms one after another, and nothing else that matters."""


@pytest.fixture(scope="module")
def slow_disk() -> Explanation:
    return explained(SLOW_DISK, Cell(pipeline="basic", wal="file", engine="mem", transport="tcp", conc=8))


def test_a_disk_that_everyone_waits_for_at_once_binds() -> None:
    found = explained(SLOW_DISK, Cell(pipeline="parallel-append", wal="file", engine="mem", transport="tcp", conc=8))
    assert (found.result.binding, found.freed.what) == ("disk", "a disk at no cost")
    assert "the disk binds, busy 9" in explanation_text(found, ())


def test_of_a_disk_that_is_waited_for_in_turns_each_is_busy_half_the_time(slow_disk: Explanation) -> None:
    assert slow_disk.result.utilisation["disk"] == pytest.approx(0.5, abs=0.02)
    assert slow_disk.result.binding == "latency"
    assert slow_disk.freed.what == "a disk at no cost"
    assert slow_disk.freed.ops_per_s > 20 * slow_disk.result.ops_per_s
    assert slow_disk.freed.binding != "disk"


def test_half_the_sync_gives_twice_the_throughput(slow_disk: Explanation) -> None:
    half = what_if(slow_disk, "--set disk.sync_us=x0.5")
    assert half.gain_pct == pytest.approx(98, abs=3)
    assert half.latency_pct == pytest.approx(-49.5, abs=1)


def test_syncs_side_by_side_count_once(slow_disk: Explanation) -> None:
    assert what_if(slow_disk, "--pipeline parallel-append").gain_pct == pytest.approx(98, abs=4)
    assert what_if(slow_disk, "--wal mem").gain_pct > 1000


def test_what_costs_nothing_gives_nothing_and_stands_below(slow_disk: Explanation) -> None:
    gains = [one.gain_pct for one in slow_disk.what_ifs]
    assert gains == sorted(gains, reverse=True)
    assert abs(what_if(slow_disk, "--set cores=x2").gain_pct) < 0.5
    assert not [one for one in slow_disk.what_ifs if "byte_ns" in one.ask]  # this disk has no cost a byte


def test_every_row_is_what_asking_for_it_gives(slow_disk: Explanation) -> None:
    """The flags of a row, taken at their word, lead to its figures."""
    cell = slow_disk.result.cell()
    for one in (slow_disk.what_ifs[0], slow_disk.what_ifs[3], slow_disk.what_ifs[-1]):
        words = one.ask.split()
        settings = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
        flags = {word[2:]: words[i + 1] for i, word in enumerate(words) if word.startswith("--") and word != "--set"}
        if flags.get("storage", "split") != "split":
            flags |= {"wal": flags["storage"], "engine": flags["storage"]}
        other = msgspec.structs.replace(cell, **flags)
        changed = apply_settings(SLOW_DISK, settings)
        (result,) = run_grid("sim", [other], brief(other, Plan(), changed, ROUNDS), model=changed)
        assert result.ops_per_s == pytest.approx(one.ops_per_s, rel=1e-6), one


def test_settings_come_first_and_the_cell_before_them_stands_beside() -> None:
    found = explained(SLOW_DISK, Cell(pipeline="basic", wal="file", engine="mem", transport="tcp", conc=8), ("disk.sync_us=5000",))
    assert found.before is not None
    assert found.result.ops_per_s == pytest.approx(1.98 * found.before.ops_per_s, rel=0.02)
    text = explanation_text(found, ("disk.sync_us=5000",))
    assert "with disk.sync_us=5000" in text
    assert "it makes +9" in text


def test_with_nothing_busy_the_longest_wait_is_named() -> None:
    """30 ms to a follower and back against a disk of 0.1 ms."""
    found = explained(make_model(sync_us=100, delay_us=15_000), Cell(wal="file", engine="mem", transport="tcp", conc=1))
    assert found.result.binding == "latency"
    assert found.freed.ask == "--set links.tcp.delay_us=x0"
    assert found.what_ifs[0].ask in ("--set links.tcp.delay_us=x0.5", "--transport mem", "--transport grpc")
    assert what_if(found, "--set links.tcp.delay_us=x0.5").gain_pct == pytest.approx(100, abs=3)
    assert "what limits it is how long a round takes" in explanation_text(found, ())


def test_a_busy_loop_binds_and_its_dearest_stage_leads() -> None:
    model = make_model(sync_us=1, delay_us=1, stage_us=1, stages={"propose": Linear(entry_us=10.0)})
    found = explained(model, Cell(wal="mem", engine="mem", transport="tcp", conc=64))
    assert found.result.binding == "leader"
    assert found.freed.what == "loops at no cost"
    best = [one.ask for one in found.what_ifs[:2]]
    assert any("stages.propose=x0.5" in ask for ask in best)


def test_cores_bind_where_peers_share_too_few() -> None:
    model = make_model(sync_us=1, delay_us=1, stage_us=1, cores=1, hosts="one", stages={"engine.apply": Linear(entry_us=5.0)})
    found = explained(model, Cell(wal="mem", engine="mem", transport="tcp", conc=256))
    assert (found.result.binding, found.freed.what) == ("cores", "cores without number")
    assert what_if(found, "--set cores=x2").gain_pct > 30
    assert what_if(found, "--set hosts=each").gain_pct > 30


def test_an_open_loop_is_ranked_by_its_latency() -> None:
    model = make_model(sync_us=2_000, delay_us=20, stage_us=5)
    cell = Cell(wal="file", engine="mem", transport="tcp", conc=0, rate=200.0)
    found = explain(cell, model, Plan(), rounds=1)
    changes = [one.latency_pct for one in found.what_ifs]
    assert changes == sorted(changes)
    assert what_if(found, "--set disk.sync_us=x0.5").latency_pct < -40
    assert "mean latency" in explanation_text(found, ())


def test_a_key_that_is_no_cost_is_refused_before_anything_runs() -> None:
    with pytest.raises(ConfigError, match=r"no 'disk\.synk'"):
        explained(make_model(), Cell(transport="tcp"), ("disk.synk=1",))
