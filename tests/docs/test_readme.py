"""The documentation is true: commands, flags, names, fields and paths are those of the code."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from rafttoy.cell import MAX_PAYLOAD_BYTES
from rafttoy.cli import options
from rafttoy.cli.main import COMMANDS, cli
from rafttoy.experiment import Result
from rafttoy.pipeline import PIPELINES
from rafttoy.storage import ENGINES, STORAGES, WALS
from rafttoy.worlds import TRANSPORTS

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
DOCUMENTS = sorted(ROOT.glob("*.md")) + sorted((ROOT / "models").glob("*.md"))
SCRIPT_COMMAND = r"python benchmarks/(\w+)\.py((?:\\\n|[^`\n])*)"
SCRIPT_COMMANDS = [
    found for path in (*DOCUMENTS, *sorted(ROOT.glob("docs/*.md"))) for found in re.findall(SCRIPT_COMMAND, path.read_text())
]


def fence(heading: str) -> list[str]:
    """Lines of the first fenced block below a heading."""
    found = re.search(rf"^## {heading}$.*?^```\w*\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    assert found, heading
    return found[1].splitlines()


def example_commands() -> list[str]:
    """Every `rafttoy …` that stands in a fenced block, continued lines joined."""
    blocks = re.findall(r"^```sh\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [found[1] for line in lines if (found := re.match(r"(?:\.venv/bin/)?(rafttoy .*)", line))]


def parse(line: str) -> click.Context:
    words = shlex.split(re.split(r" [>|] ", line)[0])
    command = cli.get_command(click.Context(cli), words[1])
    assert command is not None, line
    return command.make_context(words[1], words[2:], parent=click.Context(cli, info_name="rafttoy"))


def unquoted(text: str) -> str:
    """Without quoted words: a command inside a command has flags of its own."""
    return re.sub(r"'[^']*'", "", text)


def parameters(command: str) -> list[click.Option]:
    found = cli.get_command(click.Context(cli), command)
    assert found is not None
    return [parameter for parameter in found.params if isinstance(parameter, click.Option)]


# --- the two commands that matter most ---


def test_run_is_at_least_a_dozen_cells_of_256_bytes_over_grpc_on_a_real_disk() -> None:
    *_, last = fence("Run")
    ctx = parse(last.removeprefix(".venv/bin/"))
    flags: dict[str, Any] = dict(ctx.params)
    with ctx:
        cells = options.make_request(ctx, flags).cells
    assert ctx.info_name == "compare"
    assert len(cells) >= 12
    assert len({cell.pipeline for cell in cells}) >= 3
    assert len({cell.conc for cell in cells}) >= 4
    assert {(cell.bytes, cell.transport, cell.nodes) for cell in cells} == {(256, "grpc", 3)}
    assert {cell.wal for cell in cells} <= {"file", "etcd"}


def test_both_make_their_own_environment_from_a_lock() -> None:
    for heading, lock in (("Run", "requirements.lock"), ("Test", "requirements-dev.lock")):
        first, second = fence(heading)
        assert first.startswith("python3 -m venv ")
        assert f"-r {lock}" in first
        assert second.startswith(".venv/bin/")


def test_ci_runs_the_test_command_of_the_readme(tmp_path: Path) -> None:
    """Over a README whose command does something else, it does that, with its status."""
    (tmp_path / ".ci").mkdir()
    (tmp_path / ".ci/run").write_bytes((ROOT / ".ci/run").read_bytes())
    readme = README.replace("\n".join(fence("Test")), 'echo "from the readme"\nfalse\necho "too far"')
    (tmp_path / "README.md").write_text(readme)
    done = subprocess.run(["bash", tmp_path / ".ci/run"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (1, "from the readme\n", "")


# --- commands and flags ---


def test_every_command_has_its_section_and_no_other_has() -> None:
    assert re.findall(r"^### `rafttoy ([a-z-]+)`$", README, re.MULTILINE) == list(COMMANDS)


def test_every_example_is_well_formed() -> None:
    lines = example_commands()
    assert {line.split()[1] for line in lines} == set(COMMANDS)
    for line in lines:
        with parse(line):
            pass


def test_every_flag_stands_in_the_readme_and_every_flag_there_exists() -> None:
    known = {name for command in COMMANDS for option in parameters(command) for name in option.opts} | {"--help", "--version"}
    text = re.sub(r"^## (Run|Test)$.*?^```\n.*?^```", "", README, flags=re.MULTILINE | re.DOTALL)
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", re.sub(r"(pip|venv) [^\n]*", "", text)))
    assert named <= known
    documented = named | {"--output"}  # as -o
    assert known - {"--help", "--version", "-h", "-o", "-v"} <= documented


@pytest.mark.parametrize("script", sorted({script for script, _ in SCRIPT_COMMANDS}))
def test_benchmarks_take_the_flags_that_documents_give_them(script: str) -> None:
    named = {flag for name, rest in SCRIPT_COMMANDS if name == script for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]+", unquoted(rest))}
    done = subprocess.run([sys.executable, f"benchmarks/{script}.py", "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert named <= set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", done.stdout))


def test_names_of_components_are_complete() -> None:
    for flag, table in (("pipeline", PIPELINES), ("wal", WALS), ("engine", ENGINES), ("storage", STORAGES), ("transport", TRANSPORTS)):
        row = re.search(rf"^\| `--{flag}` \| (.*) \|$", README, re.MULTILINE)
        assert row, flag
        named = re.findall(r"`([a-z-]+)`", re.sub(r"\(.*?\)", "", row[1]))
        assert sorted(named) == sorted(table), flag


def test_defaults_and_limits_in_words() -> None:
    assert MAX_PAYLOAD_BYTES == (64 << 20) - (4 << 10)
    assert "at most 64 MiB less 4 KiB" in README
    defaults = {option.name: option.default for option in parameters("bench")}
    for name in ("conc", "bytes", "nodes"):
        assert re.search(rf"^\| `--{name}` \| .*\(default {defaults[name]}\b", README, re.MULTILINE)
    for flag in ("duration", "warmup", "connect-timeout"):
        assert f"`--{flag} {defaults[flag.replace('-', '_')]}`" in " ".join(README.split())


# --- results ---


def test_every_field_of_a_result_is_described() -> None:
    table = README.partition("## Results")[2].partition("## ")[0]
    named = [name for row in re.findall(r"^\| (`.*?`) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)]
    assert named == list(Result.__struct_fields__)


def test_exit_statuses() -> None:
    section = README.partition("## Exit status")[2].partition("## ")[0]
    assert re.findall(r"^\| (\d+) \|", section, re.MULTILINE) == ["0", "1", "2", "3", "130"]


# --- paths ---


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_documents_point_to_is_there(document: Path) -> None:
    text = document.read_text()
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        if not target.startswith("http"):
            assert (document.parent / target).exists(), target
    for anchor in re.findall(r"\]\(#([^)]+)\)", text):
        assert anchor in [heading.lower().replace(" ", "-") for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)], anchor


def test_paths_in_the_architecture_are_there() -> None:
    for path in re.findall(r"`((?:rafttoy|tests|models|tools|benchmarks|\.ci)/[\w./-]*)`", (ROOT / "ARCHITECTURE.md").read_text()):
        if "NAME" not in path and path != "rafttoy/models":
            assert (ROOT / path).exists(), path


def test_layers_in_the_architecture_are_those_that_are_checked() -> None:
    import tomllib

    text = (ROOT / "ARCHITECTURE.md").read_text()
    drawn = re.search(r"^```\n(cli\n.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert drawn
    shown = [set(re.split(r", | \| ", line)) for line in drawn[1].splitlines()]
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    checked = [set(re.findall(r"\w+", layer)) for layer in contracts[0]["layers"]]
    assert shown == checked[1:]  # above them stands only __main__
