"""Sweeps: in processes, resumed, on a real Dask cluster; the same figures whichever way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec
import pytest

from rafttoy.analysis.models import open_model
from rafttoy.analysis.plans import brief
from rafttoy.analysis.sweep import Job, bench_command, cell_flags, read_results, sweep
from rafttoy.cell import Cell, Plan
from rafttoy.cli.main import cli
from rafttoy.cli.options import make_request
from rafttoy.errors import ConfigError, RunError
from rafttoy.experiment import Result, run_grid
from rafttoy.sim.model import Model
from tests.analysis.beds import make_model

MODEL = make_model(stage_us=5.0, sync_us=[90.0, 110.0, 300.0])
CELLS = [
    Cell(pipeline=pipeline, wal="file", engine="mem", transport="tcp", conc=conc)
    for pipeline in ("basic", "async-storage")
    for conc in (1, 8)
]
PLAN = Plan(proposals=60)


def swept(cells: list[Cell] = CELLS, *, into: Path | None = None, workers: int = 1, model: Model = MODEL, **more: object) -> list[Result]:
    return sweep("sim", cells, lambda cell: PLAN, model=model, into=into, workers=workers, **more)  # type: ignore[arg-type]


def figures(results: list[Result]) -> list[tuple[Cell, int, float, float]]:
    return [(result.cell(), result.seed, result.ops_per_s, result.latency_us["p99"]) for result in results]


@pytest.fixture(scope="module")
def expected() -> list[tuple[Cell, int, float, float]]:
    """What `sim` says, in the order of the grid."""
    return figures(run_grid("sim", CELLS, PLAN, count=2, model=MODEL))


def test_one_process_or_several_give_the_same_in_the_order_of_the_grid(expected: object) -> None:
    assert figures(swept(count=2)) == expected
    assert figures(swept(count=2, workers=2)) == expected


def test_what_is_in_the_file_is_not_run_again(tmp_path: Path, expected: object) -> None:
    into, seen = tmp_path / "sweep.jsonl", list[Result]()
    swept(CELLS[:2], into=into, on_result=seen.append)
    assert len(seen) == 2
    again: list[Result] = []
    assert figures(swept(into=into, count=2, on_result=again.append)) == expected
    assert len(again) == 6
    assert figures(swept(into=into, count=2, on_result=lambda result: pytest.fail("ran again"))) == expected
    assert len(read_results(into)) == 8


def test_a_line_that_was_cut_off_is_written_again(tmp_path: Path) -> None:
    into = tmp_path / "sweep.jsonl"
    whole = figures(swept(CELLS[:2], into=into))
    content = into.read_bytes()
    into.write_bytes(content[: len(content) - 400])
    assert len(read_results(into)) == 1
    ran: list[Result] = []
    assert figures(swept(CELLS[:2], into=into, on_result=ran.append)) == whole
    assert [result.cell() for result in ran] == CELLS[1:2]
    assert into.read_bytes() == content


def test_a_file_of_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    into = tmp_path / "sweep.jsonl"
    swept(CELLS[:1], into=into)
    content = into.read_bytes()
    with pytest.raises(ConfigError, match=r"made with --model the default, now lab\.toml: take another file"):
        swept(CELLS[:1], into=into, flags={"model": "lab.toml"})
    with pytest.raises(ConfigError, match="made with --set the default, now cores=8"):
        swept(CELLS[:1], into=into, flags={"set": "cores=8"})
    with pytest.raises(ConfigError, match="results of --world sim, now real"):
        sweep("real", CELLS[:1], lambda cell: PLAN, into=into)
    assert into.read_bytes() == content
    into.write_bytes(b"{}\n")
    with pytest.raises(ConfigError, match=r"sweep\.jsonl: line 1 is no result: .*world"):
        swept(CELLS[:1], into=into)


def test_cells_that_fail_do_not_end_a_sweep(tmp_path: Path) -> None:
    lost = Cell(wal="mem", engine="mem", transport="carrier-pigeon", conc=1)
    heard: list[str] = []
    into = tmp_path / "sweep.jsonl"
    with pytest.raises(RunError, match=r"^1 of 3 runs failed; the first: .*carrier-pigeon"):
        swept([CELLS[0], lost, CELLS[1]], into=into, say=heard.append)
    assert len(read_results(into)) == 2
    assert "carrier-pigeon" in heard[0]


def test_a_killed_sweep_goes_on_where_it_ended(tmp_path: Path) -> None:
    """The command itself, killed in the middle; what it wrote is kept, and only the rest is run."""
    into = tmp_path / "sweep.jsonl"
    flags = ["--transport", "tcp", "--wal", "mem", "--engine", "mem", "--conc", ",".join(map(str, range(1, 41))), "--into", str(into)]
    command = [sys.executable, "-m", "rafttoy", "sweep", *flags]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True) as process:
        while not into.exists() or into.read_bytes().count(b"\n") < 3:
            assert process.poll() is None
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
    found = len(read_results(into))
    assert 3 <= found < 40
    done = subprocess.run([*command, "-o", "json"], capture_output=True, text=True, check=True)
    rows = [msgspec.json.decode(line, type=Result) for line in done.stdout.splitlines()]
    assert [row.conc for row in rows] == list(range(1, 41))
    assert f"{40 - found} runs in " in done.stderr
    assert f"{found} found in {into}" in done.stderr


# --- how long a simulated cell is ---


@pytest.mark.parametrize(
    "cell",
    [
        Cell(transport="tcp", conc=1),
        Cell(transport="grpc", pipeline="async-storage", conc=256),
        Cell(transport="tcp", conc=0, rate=2000.0),
    ],
)
def test_a_brief_run_says_what_a_long_one_says(cell: Cell) -> None:
    model = open_model("default")
    short = run_grid("sim", [cell], brief(cell, Plan(), model), model=model)[0]
    long = run_grid("sim", [cell], brief(cell, Plan(seed=2), model, 1500), model=model)[0]
    assert short.ops < long.ops / 5
    assert short.ops_per_s == pytest.approx(long.ops_per_s, rel=0.04)
    assert short.latency_us["p50"] == pytest.approx(long.latency_us["p50"], rel=0.05)


def test_an_open_loop_that_cannot_keep_up_ends_too() -> None:
    model = open_model("default")
    cell = Cell(transport="tcp", conc=0, rate=1e6)
    assert brief(cell, Plan(), model).seconds < 0.1


# --- Dask ---


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Two workers of one thread each, in processes of their own."""
    import distributed

    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, host="127.0.0.1") as made:
        yield made.scheduler_address


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # Dask's own
def test_dask_gives_the_same(cluster: str, tmp_path: Path, expected: object) -> None:
    into = tmp_path / "sweep.jsonl"
    assert figures(swept(count=2, dask=cluster, into=into)) == expected
    assert len(read_results(into)) == 8


@pytest.mark.slow
@pytest.mark.real
@pytest.mark.filterwarnings("default")
def test_dask_measures_on_its_workers(cluster: str) -> None:
    cell = Cell(wal="mem", engine="mem", transport="tcp", conc=4)
    (result,) = sweep("real", [cell], lambda cell: Plan(seconds=0.2, warmup_seconds=0.1), dask=cluster)
    assert (result.world, result.cell()) == ("real", cell)
    assert result.ops > 0


@pytest.mark.filterwarnings("default")
def test_no_such_cluster() -> None:
    with pytest.raises(ConfigError, match=r"^--dask nonsense: "):
        swept(dask="nonsense")


def test_the_command_of_a_cell_means_that_cell() -> None:
    """What a Dask worker runs, parsed again, is the cell and the plan that it was made from."""
    cells = [
        Cell(pipeline="basic", wal="mem:5ms", engine="leveldb", transport="tcp", conc=7, bytes=100, nodes=5),
        Cell(storage="leveldb", wal="leveldb", engine="leveldb", transport="grpc", conc=0, rate=2500.0, arrival="constant"),
    ]
    for cell in cells:
        plan = Plan(seconds=0.25, warmup_seconds=0.5, seed=9, sync="dsync", verify=True, max_inflight=3)
        words = bench_command(Job(cell, plan), None)
        assert words[1:4] == ["-m", "rafttoy", "bench"]
        command = cli.get_command(click.Context(cli), "bench")
        assert command is not None
        with command.make_context("bench", words[4:], parent=click.Context(cli, info_name="rafttoy")) as ctx:
            request = make_request(ctx, dict(ctx.params))
        assert request.cells == [cell]
        assert request.plan == plan
        assert set(cell_flags(cell)) <= set(words)
