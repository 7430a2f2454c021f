"""Model files are found from a checkout, from a wheel, by name and by path."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from rafttoy.analysis.models import DEFAULT_MODEL, find_model, shipped_models
from rafttoy.errors import ConfigError
from rafttoy.sim.model import load_model

ROOT = Path(__file__).resolve().parents[2]


def test_the_default_is_shipped_and_all_load() -> None:
    shipped = shipped_models()
    assert DEFAULT_MODEL in shipped
    for name, path in shipped.items():
        assert load_model(path).meta.name == name
        assert find_model(name) == path


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
