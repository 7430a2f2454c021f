"""Help is part of the product."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest

from rafttoy import __version__
from rafttoy.cli.main import COMMANDS, cli
from tests.cli.conftest import Rafttoy


def get(command: str) -> click.Command:
    found = cli.get_command(click.Context(cli), command)
    assert found is not None
    return found


def test_help_lists_every_command_with_a_line(rafttoy: Rafttoy) -> None:
    done = rafttoy("--help")
    assert (done.status, done.err) == (0, "")
    for command in COMMANDS:
        assert re.search(rf"^  {command}  +[A-Z].*\.$", done.out, re.MULTILINE), done.out
    for status in ("0 fine", "1 a threshold", "2 wrong usage", "3 the run itself failed", "130 interrupted"):
        assert status in done.out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_an_example_and_every_option_its_words(rafttoy: Rafttoy, command: str) -> None:
    done = rafttoy(command, "--help")
    assert (done.status, done.err) == (0, "")
    assert f"\n    rafttoy {command}" in done.out or f"\n  rafttoy {command}" in done.out
    for parameter in get(command).params:
        if isinstance(parameter, click.Argument):
            assert parameter.make_metavar(click.Context(get(command))) in done.out
            continue
        assert isinstance(parameter, click.Option)
        assert parameter.help, parameter
        assert parameter.help[-1] in ".…", parameter.help
        assert parameter.opts[0] in done.out


@pytest.mark.parametrize("command", COMMANDS)
def test_examples_in_help_are_well_formed(command: str) -> None:
    found = get(command)
    lines = [line.strip() for line in (found.epilog or "").splitlines() if line.strip().startswith("rafttoy ")]
    assert lines
    for line in lines:
        words = line.partition(" > ")[0].split()
        assert words[1] == command
        group = click.Context(cli, info_name="rafttoy")
        with found.make_context(command, words[2:], parent=group, resilient_parsing=False):
            pass


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_has_its_variable(command: str) -> None:
    for parameter in get(command).params:
        if parameter.name != "help" and not isinstance(parameter, click.Argument):
            assert isinstance(parameter, click.Option)
            flag = next(name for name in parameter.opts if name.startswith("--"))
            assert parameter.envvar == "RAFTTOY_" + flag[2:].upper().replace("-", "_")
            assert parameter.name == flag[2:].replace("-", "_")  # keys of a file are matched by it


def test_cell_flags_are_the_same_everywhere() -> None:
    flags = [
        {parameter.name: (parameter.type.name, parameter.default) for parameter in get(name).params} for name in ("bench", "sim", "compare")
    ]
    shared = set(flags[0]) & set(flags[1]) & set(flags[2])
    expected = {"pipeline", "wal", "engine", "storage", "transport", "conc", "rate", "arrival", "bytes", "nodes", "duration", "proposals"}
    expected |= {"warmup", "count", "seed", "data_dir", "verify", "metrics", "verbose", "sync", "output", "config"}
    assert expected <= shared
    for name in shared:
        assert flags[0][name] == flags[1][name] == flags[2][name]


def test_version(rafttoy: Rafttoy) -> None:
    assert rafttoy("--version").out == f"rafttoy {__version__}\n"


def test_module_and_script_are_the_same() -> None:
    done = subprocess.run([sys.executable, "-m", "rafttoy", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("rafttoy ")
    project = tomllib.loads((Path(__file__).resolve().parents[2] / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"rafttoy": "rafttoy.cli.main:main"}
