"""Model files are found from a checkout, from a wheel, by name and by path."""

from __future__ import annotations

import platform
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import msgspec
import pytest

from rafttoy.analysis.models import DEFAULT_MODEL, describe, dump_model, find_model, foreign, open_model, outside, shipped_models
from rafttoy.analysis.whatif import apply_settings
from rafttoy.cell import Cell, Plan
from rafttoy.errors import ConfigError
from rafttoy.experiment import run_grid
from rafttoy.sim.model import Calibrated, Costs, Disk, DiskUse, Interruptions, Kv, Linear, LinkWork, Model, load_model, parse_model
from rafttoy.worlds import run_sim
from tests.analysis.beds import make_model

ROOT = Path(__file__).resolve().parents[2]


def test_the_default_is_shipped_and_all_load() -> None:
    shipped = shipped_models()
    assert DEFAULT_MODEL in shipped
    for name, path in shipped.items():
        assert find_model(name) == path
        document = tomllib.loads(path.read_text())
        assert document["meta"]["name"] == name
        assert document["meta"]["method"]
        assert document["meta"]["confidence"]
        if "software" in document and "hardware" in document:
            assert open_model(name) == load_model(path)
        else:
            half, other = ("hardware", "software") if "hardware" in document else ("software", "hardware")
            assert open_model(f"{half}={name},{other}=default").meta.name.count("+") == 1


def test_a_name_that_nearly_fits() -> None:
    with pytest.raises(ConfigError, match=r"^--model: no 'defualt' \(did you mean default\?\); there are: .*default"):
        find_model("defualt")


def test_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.toml").write_text("")
    monkeypatch.chdir(tmp_path)
    assert find_model("mine.toml") == Path("mine.toml")
    assert find_model(str(tmp_path / "mine.toml")) == tmp_path / "mine.toml"
    with pytest.raises(ConfigError, match=r"^--model: no file other\.toml$"):
        find_model("other.toml")


@pytest.mark.slow
def test_a_wheel_has_them(tmp_path: Path) -> None:
    """Built from the tree, unpacked elsewhere, run from there: the models come with the package."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "--wheel-dir",
        tmp_path,
        ROOT,
    ]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("rafttoy-*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    script = "from rafttoy.analysis.models import shipped_models as s; print(*s().values(), sep='\\n')"
    done = subprocess.run(
        [sys.executable, "-P", "-c", script], cwd=tmp_path / "site", env={"PYTHONPATH": "."}, capture_output=True, text=True, check=True
    )
    found = [Path(line) for line in done.stdout.splitlines()]
    assert [path.stem for path in found] == list(shipped_models())
    assert all((tmp_path / "site") in (tmp_path / "site" / path).parents for path in found)
    assert all((tmp_path / "site" / path).is_file() for path in found)


# --- halves ---


def test_a_half_alone_says_how_to_complete_it() -> None:
    with pytest.raises(ConfigError, match=r"^model gp3 has no software half; .*: --model hardware=gp3,software=default$"):
        open_model("gp3")


def test_hardware_of_one_and_software_of_another() -> None:
    default, disk = open_model("default"), tomllib.loads(find_model("m5d.4xlarge").read_text())["hardware"]["disk"]
    model = open_model("hardware=m5d.4xlarge,software=default")
    assert model.software == default.software
    assert (model.hardware.cores, model.hardware.hosts, model.hardware.disk.sync_us) == (16, "each", disk["sync_us"])
    for transport, link in model.hardware.links.items():  # a packet's way is hardware, its work is software
        theirs = default.hardware.links[transport]
        assert link.delay_us == 100.0
        assert (link.send, link.receive, link.background) == (theirs.send, theirs.receive, theirs.background)
    assert open_model("software=default,hardware=m5d.4xlarge") == model


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hardware=gp3", r"^--model hardware=gp3: hardware=NAME,software=NAME"),
        ("hardware=gp3,sofware=default", r"^--model .*: hardware=NAME,software=NAME"),
        ("hardware=gp3,software=gp3", r"^--model .*: gp3 has no software half$"),
        ("hardware=gp4,software=default", r"^--model: no 'gp4' \(did you mean gp3\?\)"),
    ],
)
def test_halves_that_do_not_go_together(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        open_model(text)


def test_every_model_describes_itself() -> None:
    assert describe(find_model("gp3")).startswith("hardware half, three Amazon EC2")
    assert "half" not in describe(find_model("default"))


# --- what a file may not say ---


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("[hardware.disk]", "[hardware.dsk]"), r"(missing required field `disk`|unknown field `dsk`).* - at `\$\.hardware`"),
        (("byte_ns = 7.63", "bytes_ns = 7.63"), r"(missing required field `byte_ns`|unknown field `bytes_ns`).* - at `\$\.hardware\.disk`"),
        (("byte_ns = 7.63", "byte_ns = -1"), r">= 0.0 - at `\$\.hardware\.disk\.byte_ns`"),
        (("write_us = 4.0", "write_us = 4e9"), r"<= 5000000.0 - at `\$\.hardware\.disk\.write_us`"),
        (("1500.0, 5087.0", "1500.0, 10e6"), r"<= 5000000.0 - at `\$\.hardware\.disk\.sync_us\[7\]`"),  # a sync of 10 s
        (("byte_ns = 7.63", "byte_ns = 1e6"), r"<= 100000.0 - at `\$\.hardware\.disk\.byte_ns`"),  # 1 ms a byte
        (("delay_us = 100.0", "delay_us = 60e6"), r"<= 5000000.0 - at `\$\.hardware\.links\.grpc\.delay_us`"),
        (("delay_us = 100.0", 'delay_us = "100"'), r"Expected `float`, got `str` - at `\$\.hardware\.links\.grpc\.delay_us`"),
        (("write_us = 4.0", "write_us = nan"), r">= 0.0 - at `\$\.hardware\.disk\.write_us`"),
        (("[hardware.links.tcp]", "[hardware.links.tpc]"), r"hardware\.links: no 'tpc' \(did you mean tcp\?\)"),
        (("cores = 4", "cores = 0"), r">= 1 - at `\$\.hardware\.cores`"),
        (("cores = 4", 'cores = "four"'), r"Expected `int`.* - at `\$\.hardware\.cores`"),
        (("327.0, 440.0", "440.0, 327.0"), r"sync_us ascends"),
        (("[hardware]", "[hardware"), r"not TOML"),
    ],
)
def test_a_wrong_file_is_named_with_its_key(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(find_model("gp3").read_text().replace(*change))
    with pytest.raises(ConfigError, match=message) as refused:
        open_model(f"hardware={path},software=default")
    assert "mine.toml" in str(refused.value)


@pytest.mark.parametrize(
    "path", ["meta", "hardware", "hardware.disk", "hardware.disk.sync_us", "hardware.links", "software", "software.stages", "software.kv"]
)
def test_what_is_missing_is_named_with_its_section(path: str) -> None:
    document = tomllib.loads(find_model("default").read_text())
    above, _, name = path.rpartition(".")
    table = document
    for key in above.split(".") if above else ():
        table = table[key]
    del table[name]
    where = rf" - at `\$\.{re.escape(above)}`" if above else ""
    with pytest.raises(ConfigError, match=rf"^model mine\.toml: Object missing required field `{name}`{where}$"):
        parse_model(document, "mine.toml")


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("software", "stages", "propose", "entry_ms"), 1.0, r"unknown field `entry_ms` - at `\$\.software\.stages\.propose`"),
        (("software", "stages", "wal.encode.etcd", "entry_us"), -1.0, r">= 0.0 - at `\$\.software\.stages\.wal\.encode\.etcd\.entry_us`"),
        (("software", "stages", "ready", "entry_us"), 1e6, r"<= 100000.0 - at `\$\.software\.stages\.ready\.entry_us`"),
        (("software", "kv", "leveldb", "write", "byte_ns"), 1e6, r"<= 100000.0 - at `\$\.software\.kv\.leveldb\.write\.byte_ns`"),
        (("software", "kv", "leveldb", "sync_factor"), 1e6, r"<= 1000.0 - at `\$\.software\.kv\.leveldb\.sync_factor`"),
        (("software", "kv", "pebble"), {"write": {}}, r"software\.kv: no 'pebble'; there are: leveldb, rocksdb, dict"),
        (("sofware",), {}, r"unknown field `sofware`"),
    ],
)
def test_names_in_tables_are_told_in_full(keys: tuple[str, ...], value: object, message: str) -> None:
    document = tomllib.loads(find_model("default").read_text())
    table = document
    for key in keys[:-1]:
        table = table[key]
    table[keys[-1]] = value
    with pytest.raises(ConfigError, match=f"^model mine\\.toml: .*{message}$"):
        parse_model(document, "mine.toml")


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"mine\.toml: not TOML: "):
        open_model(str(tmp_path / "mine.toml"))


# --- what is told of one ---

CALIBRATED = Calibrated(conc=(2, 400), bytes=(64, 4096), transports=["tcp"], storages=["file+leveldb", "mem+mem"], error_pct={"disk": 3.0})


def test_a_model_of_another_host_is_told() -> None:
    model = make_model()
    mine = msgspec.structs.replace(model, meta=msgspec.structs.replace(model.meta, host=platform.node()))
    theirs = msgspec.structs.replace(model, meta=msgspec.structs.replace(model.meta, host="db-7"))
    assert (foreign(model), foreign(mine)) == ("", "")
    assert foreign(theirs) == f"model bed is of another host (db-7, this is {platform.node()}): it predicts that one"


def test_cells_far_outside_the_calibration_are_told() -> None:
    model = msgspec.structs.replace(make_model(), calibrated=CALIBRATED)
    near = Cell(transport="tcp", wal="file", engine="leveldb", conc=1000, bytes=256)
    assert outside(model, near) == []
    assert outside(make_model(), msgspec.structs.replace(near, conc=10**6)) == []  # nothing is known of its calibration
    found = outside(model, Cell(transport="grpc", wal="file", engine="mem", conc=4096, bytes=1 << 20, nodes=25))
    assert [note.split(" ")[0] for note in found] == ["conc=4096", "bytes=1048576", "nodes=25", "transport", "storage"]
    assert found[0] == "conc=4096 is far outside what the model was calibrated on (2 to 400)"
    assert outside(model, msgspec.structs.replace(near, conc=0, rate=10.0)) == []


def test_a_prediction_far_outside_warns() -> None:
    model = msgspec.structs.replace(make_model(stage_us=5.0), calibrated=CALIBRATED)
    (result,) = run_grid("sim", [Cell(transport="grpc", wal="mem", engine="mem", conc=4)], Plan(proposals=40), model=model)
    assert result.warnings == ["transport grpc is not among what the model was calibrated on (tcp)"]


def test_a_stage_without_a_cost_is_told() -> None:
    model = make_model(stage_us=5.0)
    stages = {name: cost for name, cost in model.software.stages.items() if name not in ("propose", "ack")}
    model = msgspec.structs.replace(model, software=msgspec.structs.replace(model.software, stages=stages))
    (result,) = run_grid("sim", [Cell(transport="tcp", wal="mem", engine="mem", conc=4)], Plan(proposals=40), model=model)
    assert result.warnings == ["model bed has no cost for ack, propose: counted as free"]


INTERRUPTED = msgspec.structs.replace(
    make_model().hardware, interruptions=Interruptions(per_s=4.5, us=[100.0, 250.0, 8000.0], percent=[0.0, 90.0, 100.0])
)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    for model in (
        make_model(sync_us=[1.0, 2.0, 9.0], sync_percent=[0.0, 99.0, 100.0]),
        msgspec.structs.replace(make_model(), calibrated=CALIBRATED),
        msgspec.structs.replace(make_model(), hardware=INTERRUPTED),
    ):
        path = tmp_path / "model.toml"
        path.write_text(dump_model(model))
        assert open_model(str(path)) == model


def test_a_disk_is_wider_under_load_and_its_slowest_hundredth_by_itself() -> None:
    disk = Disk(sync_us=[50.0, 100.0, 200.0, 300.0], sync_percent=[0.0, 50.0, 99.0, 100.0], byte_ns=0.0, write_us=1.0, handoff_us=1.0)
    assert [disk.widened()(us, 4096) for us in disk.sync_us] == disk.sync_us
    loaded = msgspec.structs.replace(disk, at=(4096.0, 8192.0), times=(1.0, 3.0), spreads=(2.0, 1.0)).widened()
    assert [loaded(us, 4096) for us in disk.sync_us] == pytest.approx([25.0, 100.0, 400.0, 500.0])
    assert [loaded(us, 8192) for us in disk.sync_us] == pytest.approx([150.0, 300.0, 600.0, 900.0])


def test_widths_without_their_place_are_refused() -> None:
    document = msgspec.to_builtins(make_model())
    document["hardware"]["disk"] |= {"at": [1.0, 2.0], "times": [1.0, 1.0], "spreads": [1.0]}
    with pytest.raises(ConfigError, match="at has 2 values, spreads 1"):
        parse_model(document, "bed.toml")


@pytest.mark.parametrize(
    ("interruptions", "message"),
    [
        ({"per_s": 3.0, "us": [2.0, 1.0]}, "us ascends, as quantiles do.*interruptions"),
        ({"per_s": 0.0, "us": [1.0, 2.0]}, r"Expected `float` > 0.0 - at `\$\.hardware\.interruptions\.per_s`"),
        ({"per_s": 3.0, "us": [1.0]}, r"length >= 2 - at `\$\.hardware\.interruptions\.us`"),
        ({"per_s": 3.0, "us": [1.0, 2.0, 3.0], "percent": [0.0, 100.0]}, "percent has 2 values, us 3"),
        ({"per_s": 3.0, "us": [1.0, 2.0], "percent": [10.0, 100.0]}, "percent ascends from 0 to 100"),
    ],
)
def test_interruptions_that_are_none_are_refused(interruptions: dict[str, Any], message: str) -> None:
    document = msgspec.to_builtins(make_model())
    document["hardware"]["interruptions"] = interruptions
    with pytest.raises(ConfigError, match=message):
        parse_model(document, "bed.toml")


# --- what a stage costs ---


def test_a_cost_is_bent_by_the_number_of_entries() -> None:
    cost = Linear(fixed_us=10.0, entry_us=1.0, at=(1.0, 7.0, 31.0), times=(1.0, 2.0, 0.5))
    assert [cost.factor(entries) for entries in (0, 1, 7, 31, 1000)] == [1.0, 1.0, 2.0, 0.5, 0.5]
    assert cost.factor(3) == pytest.approx(1.5)  # half-way between 1 and 7: log2 of 2, 4, 8
    assert cost.cost_ns(7, 0) == 34_000
    assert Linear(fixed_us=10.0, entry_us=1.0).cost_ns(7, 0) == 17_000


@pytest.mark.parametrize(
    ("curve", "message"),
    [({"at": [1.0, 2.0], "times": [1.0]}, "at has 2 values, times 1"), ({"at": [2.0, 1.0], "times": [1.0, 1.0]}, "at ascends")],
)
def test_a_curve_that_is_none_is_refused(curve: dict[str, list[float]], message: str) -> None:
    document = msgspec.to_builtins(make_model())
    document["software"]["stages"]["ready"] |= curve
    with pytest.raises(ConfigError, match=message):
        parse_model(document, "bed.toml")


def test_a_variant_of_a_stage_costs_what_the_stage_does_unless_it_is_named() -> None:
    software = make_model(stages={"wal.encode": Linear(1.0), "wal.encode.etcd": Linear(2.0)}).software
    assert [software.stage(name) for name in ("wal.encode.etcd", "wal.encode.file", "wal.encode", "nothing.else")] == [
        Linear(2.0),
        Linear(1.0),
        Linear(1.0),
        None,
    ]


def with_storage(model: Model) -> Model:
    own = Costs(
        {"propose": Linear(40.0)},
        {"leveldb": Kv(write=Linear(9.0))},
        {"tcp": LinkWork(send=Linear(6.0), wake_us=4.0)},
        DiskUse(loop_us=7.0, at=(4096.0, 65536.0), times=(2.0, 3.0)),
    )
    return msgspec.structs.replace(model, software=msgspec.structs.replace(model.software, groups={"file+leveldb tcp": own}))


def test_a_storage_has_costs_of_its_own() -> None:
    model = with_storage(make_model(stage_us=5.0, link={"send": Linear(fixed_us=3.0)}))
    own = model.on("file+leveldb tcp")
    assert own.software.stages["propose"] == Linear(40.0)
    assert own.software.stages["ready"] == Linear(5.0)
    assert own.software.kv["leveldb"].write == Linear(9.0)
    tcp, other = (each.hardware.links["tcp"] for each in (own, model.on("etcd+mem tcp")))
    assert (tcp.send, tcp.wake_us, other.send, tcp.delay_us) == (Linear(6.0), 4.0, Linear(3.0), other.delay_us)
    assert (own.hardware.disk.at, own.hardware.disk.times) == ((4096.0, 65536.0), (2.0, 3.0))
    assert own.hardware.disk.loop_us == 7.0
    other = model.on("file+leveldb grpc")  # the same storage, another transport
    assert (other.software.stages["propose"], other.hardware.disk.at) == (Linear(40.0), (4096.0, 65536.0))
    assert model.on("mem+mem tcp") is model
    slow, quick = (
        run_sim(Cell(wal=wal, engine=engine, transport="tcp", conc=1), Plan(proposals=20), model)
        for wal, engine in (("file", "leveldb"), ("mem", "mem"))
    )
    stages = [next(iter(m.reports.values())).stages["propose"] for m in (slow, quick)]
    assert [stage.cpu_ns / stage.count for stage in stages] == [40_000, 5_000]


def test_a_setting_changes_the_costs_of_every_storage() -> None:
    changed = apply_settings(
        with_storage(make_model(stage_us=5.0)),
        ["stages.propose=x2", "kv.leveldb.write.fixed_us=1", "hardware.links=x0.5", "disk.loop_us=3"],
    )
    assert changed.software.stages["propose"].fixed_us == 10.0
    own = changed.software.groups["file+leveldb tcp"]
    assert (own.stages["propose"].fixed_us, own.kv["leveldb"].write.fixed_us) == (80.0, 1.0)
    assert own.disk is not None
    assert own.disk.loop_us == 3.0
    assert (own.links["tcp"].send.fixed_us, own.links["tcp"].wake_us) == (3.0, 2.0)


def test_a_model_with_curves_and_storages_is_read_back(tmp_path: Path) -> None:
    model = with_storage(make_model(stages={"ack": Linear(1.0, at=(1.0, 9.0), times=(1.0, 1.5))}))
    path = tmp_path / "model.toml"
    path.write_text(dump_model(model))
    assert open_model(str(path)) == model
