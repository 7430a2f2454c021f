"""Costs by dotted key: set, scaled, refused."""

from __future__ import annotations

import json

import msgspec
import pytest

from rafttoy.analysis.models import open_model
from rafttoy.analysis.whatif import apply_settings, change, scaled
from rafttoy.errors import ConfigError
from rafttoy.sim.model import Linear, Model
from tests.analysis.beds import make_model

MODEL = make_model(sync_us=[80.0, 100.0, 400.0], sync_percent=[0.0, 50.0, 100.0], delay_us=60.0, stage_us=10.0, kv=Linear(2.0, 0.5, 8.0))


@pytest.mark.parametrize("key", ["hardware.disk.sync_us", "disk.sync_us"])
def test_quantiles_keep_their_shape_and_get_the_median(key: str) -> None:
    assert change(MODEL, key, "50").hardware.disk.sync_us == [40.0, 50.0, 200.0]
    assert change(MODEL, key, "[1, 2, 3]").hardware.disk.sync_us == [1.0, 2.0, 3.0]


def test_names_with_dots_in_them() -> None:
    for key in ("software.stages.engine.apply.fixed_us", "stages.engine.apply.fixed_us"):
        changed = change(MODEL, key, "7")
        assert changed.software.stages["engine.apply"] == Linear(fixed_us=7.0)
        assert changed.software.stages["propose"] == Linear(fixed_us=10.0)


def test_a_table_is_scaled_whole_but_for_what_is_no_cost() -> None:
    link = change(MODEL, "links.tcp", "x0.5").hardware.links
    assert (link["tcp"].delay_us, link["grpc"].delay_us) == (30.0, 60.0)
    assert change(MODEL, "kv.leveldb", "x2").software.kv["leveldb"].write == Linear(4.0, 1.0, 16.0)
    assert change(MODEL, "kv.leveldb", "x2").software.kv["leveldb"].sync_factor == 1.0
    hardware = scaled(MODEL, "hardware", 0.5).hardware
    assert (hardware.cores, hardware.hosts) == (64, "each")
    assert (hardware.disk.sync_us, hardware.disk.percents()) == ([40.0, 50.0, 200.0], [0.0, 50.0, 100.0])
    assert hardware.disk.concurrency == MODEL.hardware.disk.concurrency


def test_cores_and_hosts() -> None:
    assert change(MODEL, "cores", "8").hardware.cores == 8
    assert change(MODEL, "cores", "x2").hardware.cores == 128
    assert change(MODEL, "hosts", "one").hardware.hosts == "one"


def test_settings_apply_in_order_and_leave_the_model_alone() -> None:
    before = msgspec.json.encode(MODEL)
    changed = apply_settings(MODEL, ["links.tcp.delay_us=10", "links.tcp.delay_us=x3", "stages=x0"])
    assert changed.hardware.links["tcp"].delay_us == 30.0
    assert set(changed.software.stages.values()) == {Linear()}
    assert msgspec.json.encode(MODEL) == before


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            "disk.sync_uss=50",
            r"--set: no 'disk\.sync_uss' \(did you mean disk\.sync_us\?\); at the top: cores, disk, links, hosts, interruptions, pace, st",
        ),
        ("meta.name=x", r"--set: no 'meta\.name'"),
        ("disk=50", r"--set disk=50: a table of sync_us, byte_ns, .*; name one of them, or scale them all: disk=x0\.5"),
        ("disk.sync_us=fast", r"--set disk\.sync_us=fast: a number, as in disk\.sync_us=50, or a factor"),
        ("disk.byte_ns=-1", r"model with --set disk\.byte_ns=-1: Expected `float` >= 0.0 - at `\$\.hardware\.disk\.byte_ns`"),
        ("disk.byte_ns=nan", r"with --set disk\.byte_ns=nan"),
        ("disk=x-1", r"--set disk=x-1: a factor is not negative"),
        ("disk=xinf", r"--set disk=xinf: a number"),
        ("disk.sync_us=[3, 2, 1]", r"sync_us ascends, as quantiles do"),
        ("cores=0", r"Expected `int` >= 1"),
        ("hosts=two", r"Invalid enum value 'two'"),
        ("links.tcp.send=3", r"a table of fixed_us, entry_us, byte_ns"),
        ("disk.sync_us", r"--set disk\.sync_us: KEY=VALUE"),
        ("disk.byte_ns=1 2", r"not a number, a factor, or a TOML value"),
    ],
)
def test_what_names_no_cost_or_is_none(setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        apply_settings(MODEL, [setting])


def test_every_cost_of_the_shipped_model_can_be_named_in_full_and_in_short() -> None:
    model = open_model("default")

    def costs(table: dict[str, object], prefix: str) -> list[str]:
        found = []
        for name, value in table.items():
            if isinstance(value, dict):
                found += costs(value, f"{prefix}{name}.")
            elif isinstance(value, int | float):
                found.append(f"{prefix}{name}")
        return found

    for half in ("hardware", "software"):
        for key in costs(msgspec.to_builtins(getattr(model, half)), ""):
            value: float | bool = {"pace": 1, "placed": False, "reads_in_turn": False, "commit_broadcast": False}.get(key, 3)
            one = apply_settings(model, [f"{key}={json.dumps(value)}"])
            assert one == apply_settings(model, [f"{half}.{key}={json.dumps(value)}"])
            assert _value(one, f"{half}.{key}") == value, key


def _value(model: Model, key: str) -> object:
    table = msgspec.to_builtins(model)
    while key:
        name = next(name for name in sorted(table, key=len, reverse=True) if key == name or key.startswith(f"{name}."))
        table, key = table[name], key[len(name) + 1 :]
    return table
