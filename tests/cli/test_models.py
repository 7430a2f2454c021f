"""`calibrate`, `explain`, `sweep` and `report`, called as their user calls them; and what is told of the model that they take."""

from __future__ import annotations

import json
import platform
import re
from pathlib import Path

import msgspec
import pytest

from rafttoy.analysis.models import dump_model, open_model
from rafttoy.sim.model import Calibrated
from tests.analysis.beds import make_model
from tests.cli.conftest import Outcome, Rafttoy

MEMORY = ("--transport", "tcp", "--wal", "mem", "--engine", "mem")


@pytest.fixture
def slow_disk(tmp_path: Path) -> Path:
    """A model whose disk takes 10 ms for a sync, and nothing else much time."""
    path = tmp_path / "slow.toml"
    path.write_text(dump_model(make_model(sync_us=10_000, delay_us=20, stage_us=5, hosts="one", name="slow")))
    return path


def rows_of(done: Outcome) -> list[dict[str, object]]:
    assert done.status == 0, done.err
    return [json.loads(line) for line in done.out.splitlines()]


# --- explain ---


def test_explain_names_what_binds_and_ranks_what_would_help(rafttoy: Rafttoy, slow_disk: Path) -> None:
    cell = ("--wal", "file", "--engine", "mem", "--transport", "tcp", "--conc", "8", "--model", slow_disk)
    (found,) = rows_of(rafttoy("explain", *cell, "-o", "json"))
    assert isinstance(found["result"], dict)
    assert isinstance(found["freed"], dict)
    assert isinstance(found["what_ifs"], list)
    assert (found["result"]["binding"], found["freed"]["what"]) == ("disk", "a disk at no cost")
    gains = [row["gain_pct"] for row in found["what_ifs"]]
    assert gains == sorted(gains, reverse=True)
    half = next(row for row in found["what_ifs"] if row["ask"] == "--set disk.sync_us=x0.5")

    done = rafttoy("explain", *cell, *half["ask"].split())  # what a row says to ask for is taken, and gives what it says
    assert done.status == 0, done.err
    assert "with disk.sync_us=x0.5" in done.out
    assert f"{half['gain_pct']:+.0f}" in done.out


def test_explain_takes_several_cells_one_after_another(rafttoy: Rafttoy, slow_disk: Path) -> None:
    done = rafttoy("explain", *MEMORY, "--conc", "1,4", "--model", slow_disk)
    assert done.status == 0, done.err
    assert len(re.findall(r"conc=[14]\b", done.out)) >= 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("explain --set disk.synk_us=5", r"--set: no 'disk\.synk_us' \(did you mean disk\.sync_us\?\)"),
        ("explain --set disk.sync_us", r"--set: 'disk\.sync_us' is no setting: KEY=VALUE"),
        (
            "explain --set disk.byte_ns=1e6",
            r"model with --set disk\.byte_ns=1e6: Expected `float` <= 100000\.0 - at `\$\.hardware\.disk\.byte_ns`",
        ),
        ("explain --optimise p99", r"--optimise"),
        ("explain --optimise p98=5ms", r"--optimise"),
        ("explain --optimise p99=5", r"--optimise"),
        ("explain --model default --bytes 64,256 --optimise p99=5ms", r"--optimise: one storage, transport, size"),
        ("explain --model gp3", r"model gp3 has no software half; .*--model hardware=gp3,software=default"),
        ("explain -o csv", r"-o|--output"),
        ("sweep --dask tcp://127.0.0.1:1 --workers 2", r"--dask and --workers exclude each other"),
        ("sweep --workers 0", r"--workers: 0 is not in the range x>=1"),
        ("sweep --world both", r"--world: 'both' is not one of"),
        ("sweep --into .", r"--into: .*directory"),
        ("report no-such.jsonl", r"no-such\.jsonl: No such file"),
        ("report", r"Missing argument"),
        ("calibrate --into .", r"--into: .*directory"),
        ("calibrate --transport gprc", r"--transport: no 'gprc' \(did you mean grpc\?\)"),
    ],
)
def test_wrong_usage_is_2_and_names_what_is_wrong(
    rafttoy: Rafttoy, arguments: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = rafttoy(*arguments.split())
    assert (done.status, done.out) == (2, ""), done
    assert re.search(f"^rafttoy: error: .*(?:{said})", done.err, re.MULTILINE), done.err
    assert list(tmp_path.iterdir()) == []


def test_a_goal_that_nothing_keeps_is_1(rafttoy: Rafttoy, slow_disk: Path) -> None:
    flags = ("--pipeline", "basic", "--wal", "file", "--engine", "mem", "--transport", "tcp", "--conc", "2")
    done = rafttoy("explain", *flags, "--model", slow_disk, "--optimise", "p99=5ms")
    assert (done.status, done.out) == (1, "")
    assert "--optimise: no pipeline keeps p99 <= 5 ms in the model" in done.err


@pytest.mark.real
@pytest.mark.slow
def test_what_is_optimised_is_confirmed_by_a_real_run(rafttoy: Rafttoy) -> None:
    flags = (*MEMORY, "--pipeline", "basic,parallel-append", "--conc", "8", "--duration", "300ms", "--warmup", "100ms")
    done = rafttoy("explain", *flags, "--model", "default", "--optimise", "p99=10s", "-o", "json")
    (found,) = rows_of(done)
    assert found["met"] is True
    assert isinstance(found["measured"], dict)
    assert isinstance(found["choices"], list)
    assert found["measured"]["world"] == "real"
    best = found["choices"][0]["cell"]
    assert (found["measured"]["pipeline"], found["measured"]["conc"]) == (best["pipeline"], best["conc"])
    assert best["conc"] <= 8


# --- sweep and report ---


def test_a_sweep_prints_the_grid_in_order_and_a_report_shows_it(rafttoy: Rafttoy, tmp_path: Path, slow_disk: Path) -> None:
    into, html = tmp_path / "sweep.jsonl", tmp_path / "page.html"
    grid = ("--pipeline", "basic,async-storage", *MEMORY, "--conc", "1,8,64", "--workers", "1", "--model", slow_disk, "--into", into)
    done = rafttoy("sweep", *grid, "-o", "json")
    rows = rows_of(done)
    assert [(row["pipeline"], row["conc"]) for row in rows] == [(name, conc) for name in ("basic", "async-storage") for conc in (1, 8, 64)]
    assert {row["world"] for row in rows} == {"sim"}
    assert re.search(r"^rafttoy: 6 runs in [\d.]+ s$", done.err, re.MULTILINE), done.err
    again = rafttoy("sweep", *grid, "-o", "json")
    assert rows_of(again) == rows
    assert f"0 runs in 0.0 s, 6 found in {into}" in again.err

    page = rafttoy("report", into, "--html", html, "--title", "a <sweep>")
    assert (page.status, page.out, page.err) == (0, "", f"rafttoy: wrote {html}\n")
    text = html.read_text()
    assert "<title>a &lt;sweep&gt;</title>" in text
    assert text.count("<svg") == 2
    assert rafttoy("report", into, "--title", "a <sweep>").out == text


def test_a_sweep_with_another_model_takes_another_file(rafttoy: Rafttoy, tmp_path: Path, slow_disk: Path) -> None:
    into = tmp_path / "sweep.jsonl"
    grid = ("sweep", *MEMORY, "--conc", "1", "--into", into)
    assert rafttoy(*grid, "--model", slow_disk).status == 0
    done = rafttoy(*grid)
    assert (done.status, done.out) == (2, "")
    assert f"{into}: made with --model {slow_disk}, now the default: take another file" in done.err


def test_a_sweep_without_a_cluster_is_told(rafttoy: Rafttoy) -> None:
    done = rafttoy("sweep", *MEMORY, "--conc", "1", "--dask", "nonsense")
    assert (done.status, done.out) == (2, "")
    assert "rafttoy: error: --dask nonsense: " in done.err


def test_a_report_of_what_is_no_result_names_the_line(rafttoy: Rafttoy, tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text('{"world": "real"}\n')
    done = rafttoy("report", path)
    assert (done.status, done.out) == (2, "")
    assert re.search(rf"^rafttoy: error: {re.escape(str(path))}: line 1 is no result: ", done.err, re.MULTILINE), done.err
    path.write_text("")
    assert "no results" in rafttoy("report", path).err


# --- calibrate ---


@pytest.mark.real
@pytest.mark.slow
def test_calibrate_writes_a_model_that_the_others_take(rafttoy: Rafttoy, tmp_path: Path) -> None:
    into = tmp_path / "new" / "here.toml"
    done = rafttoy(
        "calibrate", "--transport", "tcp", "--wal", "file", "--engine", "mem", "--into", into, "--data-dir", tmp_path, "-o", "json"
    )
    (found,) = rows_of(done)
    assert found["model"] == str(into)
    assert isinstance(found["fits"], list)
    assert {"disk", "stages", "links"} <= {fit["part"] for fit in found["fits"]}
    assert f"wrote {into}" in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["new"]  # what it measured on is gone

    model = open_model(str(into))
    assert list(model.hardware.links) == ["tcp"]
    assert model.meta.host == platform.node()
    assert model.calibrated is not None
    assert model.calibrated.storages == ["file+mem"]
    (row,) = rows_of(
        sim := rafttoy("sim", "--model", into, "--transport", "tcp", "--wal", "file", "--engine", "mem", "--conc", "8", "-o", "json")
    )
    assert row["warnings"] == []
    assert "another host" not in sim.err


@pytest.mark.real
def test_a_disk_that_cannot_be_written_is_3(rafttoy: Rafttoy, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = rafttoy("calibrate", "--transport", "tcp", "--data-dir", tmp_path / "file", "--into", tmp_path / "m.toml")
    assert (done.status, done.out) == (3, "")
    assert str(tmp_path / "file") in done.err
    assert not (tmp_path / "m.toml").exists()


# --- what is told of a model ---


def test_a_model_of_another_host_is_told_by_name(rafttoy: Rafttoy, tmp_path: Path) -> None:
    model = make_model(stage_us=5.0, name="lab")
    path = tmp_path / "lab.toml"
    for host, told in (("db-7", True), (platform.node(), False)):
        path.write_text(dump_model(msgspec.structs.replace(model, meta=msgspec.structs.replace(model.meta, host=host))))
        for command in ("sim", "sweep", "explain"):
            done = rafttoy(command, *MEMORY, "--conc", "1", "--model", path, *(["--duration", "20ms"] if command == "sim" else []))
            assert done.status == 0, done.err
            assert (f"model lab is of another host (db-7, this is {platform.node()})" in done.err) == told, done.err


def test_a_prediction_far_outside_the_calibration_is_told(rafttoy: Rafttoy, tmp_path: Path) -> None:
    model = msgspec.structs.replace(make_model(stage_us=5.0, name="lab"), calibrated=Calibrated(conc=(2, 400), bytes=(64, 4096)))
    path = tmp_path / "lab.toml"
    path.write_text(dump_model(model))
    done = rafttoy("sim", *MEMORY, "--conc", "400,4000", "--proposals", "8000", "--model", path, "-o", "json")
    near, far = rows_of(done)
    assert near["warnings"] == []
    assert far["warnings"] == ["conc=4000 is far outside what the model was calibrated on (2 to 400)"]
    assert "conc=4000 is far outside" in done.err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("[hardware.disk]", "[hardware.dsk]"), r"(unknown field `dsk`|missing required field `disk`) - at `\$\.hardware`"),
        (("byte_ns = 7.63", "byte_ns = 1e6"), r"<= 100000\.0 - at `\$\.hardware\.disk\.byte_ns`"),
        (("write_us = 4.0", "write_us = -4.0"), r">= 0\.0 - at `\$\.hardware\.disk\.write_us`"),
    ],
)
@pytest.mark.parametrize("command", ["sim", "sweep", "explain", "compare"])
def test_a_wrong_model_is_2_and_named_before_anything_runs(
    rafttoy: Rafttoy, tmp_path: Path, command: str, change: tuple[str, str], said: str
) -> None:
    from rafttoy.analysis.models import find_model

    path = tmp_path / "mine.toml"
    path.write_text(find_model("gp3").read_text().replace(*change))
    done = rafttoy(command, "--model", f"hardware={path},software=default")
    assert (done.status, done.out) == (2, "")
    assert re.match(rf"rafttoy: error: model .*mine\.toml.*: .*{said}", done.err), done.err
