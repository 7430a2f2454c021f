"""From flags, variables and a file to cells and a plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest

from rafttoy.cell import Cell, Plan
from rafttoy.cli import options
from rafttoy.cli.config import set_by_user
from rafttoy.cli.main import cli


def parse(command: str, *arguments: str) -> click.Context:
    """The context of `rafttoy COMMAND ARGUMENTS`, not run."""
    group = click.Context(cli, info_name="rafttoy")
    found = cli.get_command(group, command)
    assert found is not None
    return found.make_context(command, list(arguments), parent=group)


def request(*arguments: str) -> options.Request:
    ctx = parse("sim", *arguments)
    flags: dict[str, Any] = dict(ctx.params)
    with ctx:
        return options.make_request(ctx, flags)


def test_without_flags_there_is_one_cell_of_defaults() -> None:
    asked = request()
    assert asked.cells == [Cell()]
    assert asked.plan == Plan()
    assert (asked.count, asked.data_dir, asked.output, asked.flags) == (1, None, "table", {})


def test_lists_multiply_with_loads_innermost() -> None:
    cells = request("--pipeline", "basic,async-apply", "--bytes", "64,256", "--conc", "1,128").cells
    assert [(cell.pipeline, cell.bytes, cell.conc) for cell in cells] == [
        (pipeline, nbytes, conc) for pipeline in ("basic", "async-apply") for nbytes in (64, 256) for conc in (1, 128)
    ]
    assert len({cell.configuration() for cell in cells}) == 2


def test_a_combined_store_is_one_cell_whatever_wals_are_listed() -> None:
    cells = request("--storage", "split,leveldb", "--wal", "mem,file,leveldb", "--engine", "mem,leveldb").cells
    assert [(cell.storage, cell.wal, cell.engine) for cell in cells] == [
        *(("split", wal, engine) for wal in ("mem", "file", "leveldb") for engine in ("mem", "leveldb")),
        ("leveldb", "leveldb", "leveldb"),
    ]


def test_an_open_loop_has_no_concurrency() -> None:
    cells = request("--rate", "100,2000.5", "--arrival", "constant,poisson").cells
    assert [(cell.rate, cell.arrival, cell.conc) for cell in cells] == [
        (100.0, "constant", 0),
        (100.0, "poisson", 0),
        (2000.5, "constant", 0),
        (2000.5, "poisson", 0),
    ]


def test_arrivals_do_not_multiply_closed_loops() -> None:
    assert request("--arrival", "constant,poisson").cells == [Cell()]


def test_plan() -> None:
    plan = request("--duration", "500ms", "--warmup", "0s", "--seed", "7", "--verify", "--sync", "dsync", "--connect-timeout", "1m").plan
    assert plan == Plan(seconds=0.5, warmup_seconds=0.0, seed=7, verify=True, sync="dsync", connect_seconds=60.0)
    assert request("--proposals", "1000").plan.proposals == 1000


@pytest.mark.parametrize(
    ("arguments", "names"),
    [(["--conc", "1", "--rate", "5"], ("--conc", "--rate")), (["--proposals", "9", "--duration", "1s"], ("--proposals", "--duration"))],
)
def test_exclusive_flags_are_both_named(arguments: list[str], names: tuple[str, str]) -> None:
    with pytest.raises(click.UsageError) as error:
        request(*arguments)
    assert all(name in error.value.message for name in names)


# --- where a value comes from ---


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "rafttoy.toml"
    monkeypatch.setenv("RAFTTOY_CONFIG", str(path))
    return path


def test_a_flag_outranks_a_variable_and_that_the_file(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config.write_text('bytes = 1\nnodes = 1\nseed = 1\nduration = "1s"\n')
    monkeypatch.setenv("RAFTTOY_BYTES", "2")
    monkeypatch.setenv("RAFTTOY_NODES", "3")
    monkeypatch.setenv("RAFTTOY_CONC", "64")
    asked = request("--bytes", "4")
    assert (asked.cells[0].bytes, asked.cells[0].nodes, asked.plan.seed, asked.plan.seconds) == (4, 3, 1, 1.0)
    assert asked.cells[0].conc == 64
    assert asked.flags == {"bytes": "4", "nodes": "3", "conc": "64", "seed": "1", "duration": "1.0"}


def test_a_table_of_the_command_outranks_the_top_of_the_file(config: Path) -> None:
    config.write_text('conc = [1, 2]\nseed = 5\nverify = true\n[sim]\nconc = 4\n[bench]\nconc = 8\ndata-dir = "/x"\n')
    asked = request()
    assert ([cell.conc for cell in asked.cells], asked.plan.seed, asked.plan.verify) == ([4], 5, True)
    assert parse("bench").params["conc"] == (8,)
    assert parse("bench").params["data_dir"] == Path("/x")


def test_keys_of_other_commands_may_stand_at_the_top(config: Path) -> None:
    config.write_text("max-error = 10\nid = 2\nconc = [16]\n")
    assert [cell.conc for cell in request().cells] == [16]


def test_a_rate_given_higher_up_replaces_a_concurrency(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config.write_text("conc = [16]\n")
    assert [cell.rate for cell in request("--rate", "100").cells] == [100.0]
    monkeypatch.setenv("RAFTTOY_RATE", "50")
    assert [cell.rate for cell in request().cells] == [50.0]
    assert [cell.conc for cell in request("--conc", "8").cells] == [8]


def test_flags_are_known_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAFTTOY_SEED", "9")
    ctx = parse("sim", "--conc", "1,2", "--verify")
    assert set_by_user(ctx) == {"conc": "1,2", "verify": "true", "seed": "9"}
