"""A profile of another implementation: its cells, its fit, and the whole with a command that plays the other system."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks import fit_go
from benchmarks.fit_go import (
    FREE,
    README,
    STORES,
    TEST,
    TRAINING,
    Sample,
    cell_of,
    errors,
    fit,
    mape_pct,
    measure,
    predicted,
    profile,
    words,
)
from rafttoy.analysis.models import open_model
from rafttoy.errors import CheckFailed, ConfigError
from rafttoy.sim.model import load_model

ROOT = Path(__file__).resolve().parents[2]
HARDWARE = open_model("default").hardware
TRUE = {name: free.guess * factor for (name, free), factor in zip(FREE.items(), (0.7, 1.6, 0.5, 1.5, 0.6, 1.4, 2.0), strict=True)}
"""Costs of a system that is the model itself, some way from where the search begins."""


# --- cells ---


def test_few_cells_fit_and_many_others_judge() -> None:
    assert len(TRAINING) == len(set(TRAINING)) <= 6
    assert len(TEST) == len(set(TEST)) >= 12
    assert not set(TRAINING) & set(TEST)
    assert {fit_go.store_of(cell) for cell in TRAINING} == {fit_go.store_of(cell) for cell in TEST} == set(STORES)
    low, high = (choose(cell.conc for cell in TRAINING) for choose in (min, max))
    assert all(low <= cell.conc <= high for cell in TEST)  # a profile is judged where it is meant to hold


def test_a_command_gets_the_names_of_the_other_system() -> None:
    cell = cell_of("etcd-pebble", "basic", 64)
    assert (cell.storage_name(), cell.transport) == ("etcd+leveldb", "grpc")
    assert words("run '{store} x' {pipeline} {conc} {bytes} {seconds}s", cell, 1.5) == [
        "run",
        "etcd-pebble x",
        "basic",
        "64",
        "256",
        "1.5s",
    ]
    with pytest.raises(ConfigError, match=r"--command: placeholder: no 'stroe' \(did you mean store\?\)"):
        words("run {stroe}", cell, 1.0)


# --- measuring ---


def test_rounds_alternate_and_are_kept(tmp_path: Path) -> None:
    into = tmp_path / "go.jsonl"
    cells = TEST[:3]
    ran: list[object] = []

    def run(cell: fit_go.Cell) -> float:
        ran.append(cell)
        if len(ran) == 5:
            raise CheckFailed("interrupted")
        return 1000.0 * len(ran)

    with pytest.raises(CheckFailed):
        measure(cells, 2, into, run, lambda what, share: None)
    samples = measure(cells, 2, into, run, lambda what, share: None)
    assert ran == [*cells, cells[2], cells[1], cells[1], cells[0]]  # forth and back; the one that failed again, no other
    assert [(sample.cell, sample.round) for sample in samples] == [*((cell, 0) for cell in cells), *((cell, 1) for cell in cells[::-1])]
    assert measure(cells, 2, into, lambda cell: pytest.fail("ran again"), lambda what, share: None) == samples
    with into.open("ab") as file:
        file.write(b'{"cell": 1}\n')
    with pytest.raises(ConfigError, match=r"go\.jsonl: line 7 is no sample"):
        fit_go.read_samples(into)


def test_medians_and_noise() -> None:
    cell, other = TEST[:2]
    samples = [Sample(cell, i, rate) for i, rate in enumerate((90.0, 100.0, 130.0))] + [Sample(other, 0, 5.0)]
    assert fit_go.medians(samples) == {cell: 100.0, other: 5.0}
    assert fit_go.noise_pct(samples, [cell]) == pytest.approx((10 + 0 + 30) / 3)


# --- the fit ---


def test_independent_clients_are_as_many_in_flight_as_there_are() -> None:
    """Little's law, N = X · R; and one client alone is a closed loop."""
    model = profile(TRUE, HARDWARE)
    cell = cell_of("mem", "parallel-append", 64)
    rate = predicted(cell, model)
    assert rate * fit_go.latency_s(cell, model, rate) == pytest.approx(64, rel=0.06)
    alone = cell_of("mem", "parallel-append", 1)
    assert predicted(alone, model) * fit_go.latency_s(alone, model, 0.0) == pytest.approx(1)


@pytest.mark.slow
def test_a_fit_comes_nearer() -> None:
    """To a system that is the model itself, thrice as dear in two costs."""
    cells = [cell_of("mem", "basic", conc) for conc in (1, 4)]
    guesses = {name: free.guess for name, free in FREE.items()}
    truth = profile(guesses | {"round_us": guesses["round_us"] * 3, "delay_us": guesses["delay_us"] * 3}, HARDWARE)
    measured = {cell: predicted(cell, truth) for cell in cells}
    begun = mape_pct(errors(measured, cells, profile(guesses, HARDWARE)))
    found = profile(fit(measured, HARDWARE), HARDWARE)
    assert mape_pct(errors(measured, cells, found)) < begun / 2


# --- the whole ---


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A system that does 20,000 proposals a second, whatever is asked of it, and fewer alone."""
    script = tmp_path / "other"
    script.write_text(
        f"""#!{sys.executable}
import sys
store, pipeline, conc = sys.argv[1:4]
print(f"BenchmarkRaftClosed/conc={{conc}}/bytes=256-2 1000 1 ns/op {{min(int(conc) * 3000, 20000) * 256e-6:.3f}} MB/s")
"""
    )
    script.chmod(0o755)
    return script


@pytest.mark.slow
@pytest.mark.real
def test_a_profile_is_written_with_its_provenance(tmp_path: Path, other: Path) -> None:
    into, target = tmp_path / "go.jsonl", tmp_path / "go.toml"
    flags = ["--rounds", "1", "--into", str(into), "--write", str(target), "--hardware", "default", "--small", "--max-error", "1000"]
    done = CliRunner().invoke(fit_go.main, ["--command", f"{shlex.quote(str(other))} {{store}} {{pipeline}} {{conc}}", *flags])
    assert done.exception is None, done.output
    assert len(fit_go.read_samples(into)) == 3
    model = load_model(target)
    assert model.meta.name == "go-original"
    assert "over 2 of its cells, medians of 1 runs" in model.meta.method
    assert model.calibrated is not None
    assert model.calibrated.conc == (1, 8)
    for line in ("training cells (2), 256 B:", "test cells (1), 256 B:", "| mem | basic | 8 | 20,000/s |"):
        assert line in done.output

    again = CliRunner().invoke(fit_go.main, [*flags[:-1], "0.1"])  # all is measured; only the threshold is another
    assert isinstance(again.exception, CheckFailed)
    assert "more than --max-error 0.1 %" in str(again.exception)


def test_a_measurement_that_is_missing_is_named(tmp_path: Path) -> None:
    done = CliRunner().invoke(fit_go.main, ["--into", str(tmp_path / "go.jsonl"), "--hardware", "default"])
    assert isinstance(done.exception, ConfigError)
    assert f"--command: {tmp_path / 'go.jsonl'} has no round of {TRAINING[0]}" in str(done.exception)


def test_the_cells_are_listed() -> None:
    done = CliRunner().invoke(fit_go.main, ["--list"])
    assert done.output.splitlines() == [*(f"training {cell}" for cell in TRAINING), *(f"test {cell}" for cell in TEST)]


# --- the shipped profile ---


def test_the_readme_of_the_original_is_predicted_within_a_fifth() -> None:
    """Three m5d.4xlarge in 2019, with what `ASSUMPTIONS` state."""
    found = fit_go.readme_errors("go-original")
    assert set(found) == set(README)
    assert {conc: error for conc, (_, error) in found.items() if abs(error) > 20} == {}
