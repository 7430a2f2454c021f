"""What goes wrong is said in one line that names it, with the exit status of whose fault it is."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rafttoy.cell import MAX_PAYLOAD_BYTES
from rafttoy.cli.main import COMMANDS
from tests.cli.conftest import Rafttoy

CPU = min(os.sched_getaffinity(0))
PEERS = "127.0.0.1:7001,127.0.0.1:7002,127.0.0.1:7003"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        # unknown names: the near miss and the list
        ("benhc", r"COMMAND: no 'benhc' \(did you mean bench\?\); there are: compare, bench, sim, explain, "),
        (
            "sim --pipeline paralel-append",
            r"--pipeline: no 'paralel-append' \(did you mean parallel-append\?\); there are: basic, .*async-storage",
        ),
        ("bench --pipeline basic,nope", r"--pipeline: no 'nope'; there are: basic, "),
        ("bench --wal flie", r"--wal: no 'flie' \(did you mean file\?\); there are: mem, .*file"),
        ("bench --wal mem:5", r"--wal.*mem:5"),
        ("bench --engine levledb", r"--engine: no 'levledb' \(did you mean leveldb\?\); there are: "),
        ("compare --storage splt", r"--storage: no 'splt' \(did you mean split\?\); there are: "),
        ("bench --transport gprc", r"--transport: no 'gprc' \(did you mean grpc\?\); there are: grpc, tcp, mem"),
        ("sim --arrival uniform", r"--arrival: 'uniform' is not one of 'poisson', 'constant'"),
        ("sim --model defualt", r"--model: no 'defualt' \(did you mean default\?\)"),
        ("sim --bites 5", r"No such option.*--bites.*--bytes"),
        # numbers
        ("bench --conc 0", r"--conc: 0 is not in the range x>=1"),
        ("bench --conc 1,-5", r"--conc: -5 is not in the range x>=1"),
        ("bench --conc many", r"--conc: 'many' is not a valid integer"),
        ("sim --bytes 0", r"--bytes: 0 is not in the range"),
        ("sim --bytes -1", r"--bytes: -1 is not in the range"),
        (f"sim --bytes {MAX_PAYLOAD_BYTES + 1}", rf"--bytes: {MAX_PAYLOAD_BYTES + 1} is not in the range 1<=x<={MAX_PAYLOAD_BYTES}"),
        ("sim --rate 0", r"--rate: 0.0 is not in the range x>0"),
        ("sim --rate -2", r"--rate: -2.0 is not in the range x>0"),
        ("sim --rate nan", r"--rate: 'nan' is not a finite number"),
        ("sim --nodes 0", r"--nodes: 0 is not in the range x>=1"),
        ("sim --count 0", r"--count: 0 is not in the range x>=1"),
        ("sim --seed -1", r"--seed: -1 is not in the range x>=0"),
        ("sim --duration 5", r"--duration: '5' is not a duration"),
        ("sim --duration 0s", r"--duration"),
        ("compare --max-error -1", r"--max-error: -1.0 is not in the range x>=0"),
        # what excludes each other
        ("bench --conc 1 --rate 5", r"--rate and --conc exclude each other"),
        ("sim --proposals 5 --duration 1s", r"--proposals and --duration exclude each other"),
        # a running cluster
        (f"bench --id 4 --peers {PEERS}", r"--id 4: --peers lists 3 nodes"),
        (f"peer --id 4 --peers {PEERS}", r"--id 4: --peers lists 3 nodes"),
        (f"peer --id 0 --peers {PEERS}", r"--id: 0 is not in the range x>=1"),
        ("peer --id 1 --peers 127.0.0.1", r"--peers: '127.0.0.1' is not an address: host:port"),
        ("bench --id 1 --peers a:1,b:x", r"--peers: 'b:x' is not an address"),
        ("bench --id 1 --peers a:1,a:1", r"--peers: an address stands there twice"),
        ("bench --id 1", r"--id and --peers go together"),
        (f"bench --peers {PEERS}", r"--id and --peers go together"),
        ("peer", r"--id and --peers are needed"),
        (f"bench --id 1 --peers {PEERS} --nodes 5", r"--nodes 5: --peers lists 3 nodes"),
        (f"bench --id 1 --peers {PEERS} --transport mem", r"--transport mem keeps all peers in one process"),
        ("bench --keep", r"--keep needs --data-dir"),
        # processors and profiles
        ("bench --cpus 0,x", r"--cpus: 'x' is no set of processors"),
        ("bench --cpus 9999", r"--cpus: no processor 9999; there are: [0-9+-]+\n"),
        (f"peer --id 1 --peers {PEERS} --cpus 9999", r"--cpus: no processor 9999; there are: "),
        (f"bench --nodes 2 --cpus {CPU},{CPU},{CPU}", r"--cpus has 3 sets, but there are 2 processes"),
        (f"bench --transport mem --cpus {CPU},{CPU}", r"--cpus has 2 sets, but there is 1 process"),
        (f"bench --id 1 --peers {PEERS} --cpus {CPU},{CPU}", r"--cpus has 2 sets, but there is 1 process"),
        (f"peer --id 1 --peers {PEERS} --cpus {CPU},{CPU}", r"--cpus has 2 sets, but there is 1 process"),
        ("bench --profile x.prof --conc 1,2", r"--profile takes one cell, not 2"),
        ("bench --profile no/such/x.prof", r"--profile no/such/x\.prof: no directory no/such"),
        ("bench --fresh", r"--fresh needs --data-dir"),
        # files
        ("sim --model no/such.toml", r"--model: no file no/such\.toml"),
        ("sim --config no/such.toml", r"--config no/such\.toml: No such file"),
    ],
)
def test_wrong_usage_is_2_and_names_the_flag(rafttoy: Rafttoy, arguments: str, said: str) -> None:
    done = rafttoy(*arguments.split())
    assert done.status == 2, done
    assert done.out == ""
    assert re.match(f"rafttoy: error: {said}", done.err), done.err


def test_a_usage_error_says_where_help_is(rafttoy: Rafttoy) -> None:
    assert rafttoy("bench", "--conc", "0").err.endswith("\nTry 'rafttoy bench --help'.\n")


def test_no_command_shows_what_there_is(rafttoy: Rafttoy) -> None:
    done = rafttoy()
    assert done.status == 2
    assert all(command in done.err for command in COMMANDS)


def test_a_wrong_variable_is_named(rafttoy: Rafttoy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAFTTOY_CONC", "0")
    done = rafttoy("sim")
    assert (done.status, done.err.splitlines()[0]) == (2, "rafttoy: error: --conc (from RAFTTOY_CONC): 0 is not in the range x>=1")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("cnoc = 5", r"key: no 'cnoc' \(did you mean conc\?\)"),
        ("[sim]\nmax-error = 5", r"key: no 'sim\.max-error'"),
        ("[simm]\nconc = 5", r"table: no 'simm' \(did you mean sim\?\)"),
        ("conc = {a = 1}", r"table: no 'conc'"),
        ("conc = []", r"conc must be a string, a number, true, false, or a list of those"),
        ("conc = 1979-05-27", r"conc must be a string, a number"),
        ("conc = ", r"not TOML: "),
        ("config = 'x'", r"key: no 'config'"),
    ],
)
def test_a_wrong_file_is_named_with_its_key(rafttoy: Rafttoy, tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "c.toml"
    path.write_text(content)
    done = rafttoy("sim", "--config", path)
    assert done.status == 2
    assert re.match(f"rafttoy: error: --config {re.escape(str(path))}: {said}", done.err), done.err


def test_a_wrong_value_in_a_file_names_both(rafttoy: Rafttoy, tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text("conc = [1, 0]")
    done = rafttoy("sim", "--config", path)
    assert done.status == 2
    assert done.err.startswith(f"rafttoy: error: --conc (from {path}): 0 is not in the range x>=1")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("[hardware]", "[hardware]\ncroes = 4"), r"croes.*hardware"),
        (("[hardware.disk]", "[hardware.disk]\nsync_usec = 4"), r"sync_usec.*hardware\.disk"),
        (("write_us = ", "write_us = -"), r"hardware\.disk\.write_us"),
        (("[meta]", "[meta]\nowner = 'x'"), r"owner.*meta"),
    ],
)
def test_a_wrong_key_in_a_model_is_named(rafttoy: Rafttoy, tmp_path: Path, change: tuple[str, str], said: str) -> None:
    from rafttoy.analysis.models import find_model

    text = find_model("default").read_text()
    assert change[0] in text
    path = tmp_path / "mine.toml"
    path.write_text(text.replace(*change, 1))
    done = rafttoy("sim", "--model", path)
    assert done.status == 2
    assert re.match(f"rafttoy: error: model {re.escape(str(path))}: .*{said}", done.err), done.err


# --- the run itself ---


@pytest.mark.real
def test_a_taken_port_is_3_and_named(rafttoy: Rafttoy, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for transport in ("grpc", "tcp"):
            command = [
                sys.executable,
                "-m",
                "rafttoy",
                "peer",
                "--id",
                "1",
                "--peers",
                address,
                "--data-dir",
                tmp_path,
                "--transport",
                transport,
            ]
            done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
            assert done.returncode == 3, done
            assert re.search(f"^rafttoy: error: .*{re.escape(address)}", done.stderr, re.MULTILINE), done.stderr


@pytest.mark.real
def test_an_unwritable_directory_is_3_and_named(rafttoy: Rafttoy, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = rafttoy("bench", "--data-dir", tmp_path / "file", "--duration", "100ms", "--warmup", "0s")
    assert done.status == 3
    assert f"{tmp_path / 'file'}" in done.err.splitlines()[-1]


def _can_mount() -> bool:
    unshare = shutil.which("unshare")
    if unshare is None:
        return False
    return subprocess.run([unshare, "-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, check=False).returncode == 0


@pytest.mark.real
@pytest.mark.skipif(not _can_mount(), reason="no user namespace to mount a small file system in")
def test_a_full_disk_is_3_and_named(tmp_path: Path) -> None:
    command = f"mount -t tmpfs -o size=2m tmpfs {tmp_path} && exec {sys.executable} -m rafttoy bench --transport tcp --data-dir {tmp_path}"
    done = subprocess.run(["unshare", "-rm", "sh", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 3, done
    assert re.search(rf"rafttoy: error: .*{re.escape(str(tmp_path))}.*No space left on device", done.stderr), done.stderr


@pytest.mark.real
def test_peers_that_do_not_answer_are_3_and_named(rafttoy: Rafttoy, tmp_path: Path) -> None:
    begun = time.monotonic()
    flags = ["--id", "1", "--peers", PEERS, "--transport", "tcp", "--connect-timeout", "500ms", "--data-dir", tmp_path]
    done = rafttoy("bench", *flags)
    assert done.status == 3
    assert re.search(r"rafttoy: error: .*no answer from peer 2, 3 within 0\.5 s", done.err), done.err
    assert time.monotonic() - begun < 20


def test_a_bug_of_ours_shows_its_traceback_and_is_not_a_failed_threshold(rafttoy: Rafttoy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rafttoy.cli.list._rows", lambda: 1 / 0)
    done = rafttoy("list")
    assert done.status == 3
    assert "ZeroDivisionError" in done.err
    assert done.err.endswith("rafttoy: error: a bug in rafttoy (the traceback is above)\n")


def test_a_closed_pipe_is_no_traceback() -> None:
    for arguments in (["list"], ["--help"], ["list", "-o", "json"]):
        read, write = os.pipe()
        os.close(read)
        done = subprocess.run([sys.executable, "-m", "rafttoy", *arguments], stdout=write, stderr=subprocess.PIPE, check=False)
        os.close(write)
        assert (done.returncode, done.stderr) == (141, b"")
