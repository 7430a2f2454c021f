"""Processors that do not sleep: what is asked of the kernel, for how long, and what a result says of it."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from rafttoy.cli.main import run
from rafttoy.real import idle
from rafttoy.real.idle import idle_cores, why_asleep

BENCH = ["bench", "--wal", "mem", "--engine", "mem", "--transport", "mem", "--conc", "4", "--connect-timeout", "200s", "-o", "json"]
BENCH += ["--duration", "200ms", "--warmup", "0s"]


def held() -> list[str]:
    """Files that this process has open and that are the device."""
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            found.append(str(descriptor.readlink()))
        except OSError:
            continue  # the listing's own
    return [name for name in found if name == str(idle._DEVICE)]


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "latency"
    path.touch()
    monkeypatch.setattr(idle, "_DEVICE", path)
    return path


def test_no_latency_is_asked_for_until_the_block_ends(device: Path) -> None:
    with idle_cores("poll"):
        assert struct.unpack("i", device.read_bytes()) == (0,)
        assert held() == [str(device)]
    assert held() == []
    assert why_asleep() == ""


def test_nothing_is_asked_for_where_processors_may_sleep(device: Path) -> None:
    with idle_cores("sleep"):
        assert held() == []
        assert device.read_bytes() == b""


def test_a_host_that_does_not_grant_it_is_measured_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "missing"
    monkeypatch.setattr(idle, "_DEVICE", missing)
    with idle_cores("poll"):
        assert why_asleep() == f"{missing}: No such file or directory"
    assert run(BENCH) == 0
    out, err = capfd.readouterr()
    assert json.loads(out)["idle"] == "sleep"
    assert f"idle processors sleep, and each message has to wake them: {missing}: No such file or directory" in err


@pytest.mark.parametrize("mode", ["poll", "sleep"])
def test_a_result_tells_what_idle_processors_did(mode: str, device: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run([*BENCH, "--idle", mode]) == 0
    out, err = capfd.readouterr()
    assert json.loads(out)["idle"] == mode
    assert "idle processors" not in err
    assert bool(device.read_bytes()) == (mode == "poll")
