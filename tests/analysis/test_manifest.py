"""What a result tells of where it comes from."""

from __future__ import annotations

import re
import sys
import sysconfig

import pytest

from rafttoy.analysis.manifest import is_optimized, manifest


def test_manifest_names_versions_host_commit_and_flags() -> None:
    found = manifest({"seed": "7", "conc": "1,2"})
    assert list(found) == ["versions", "host", "commit", "flags"]
    assert found["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["versions"]["python_build"] == ("optimized" if is_optimized() else "plain")
    assert {"rafttoy", "simpy", "grpcio"} <= set(found["versions"])
    assert found["host"]["cores"] >= 1
    assert re.fullmatch(r"([0-9a-f]{12}\+?)?", found["commit"])
    assert found["flags"] == {"conc": "1,2", "seed": "7"}


@pytest.mark.parametrize(
    ("configured", "prefix", "expected"),
    [
        ("'--prefix=/opt/python' '--enable-optimizations' '--with-lto'", "/opt/python", True),
        ("'--prefix=/opt/pyenv/3.11.7' '--enable-shared'", "/opt/pyenv/3.11.7", False),
        ("'--enable-shared' '--prefix=/usr'", "/usr", True),  # Debian's
        (None, "C:/Python", True),  # where there was no configure
    ],
)
def test_which_interpreters_are_optimized(configured: str | None, prefix: str, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysconfig, "get_config_var", {"CONFIG_ARGS": configured}.get)
    monkeypatch.setattr(sys, "base_prefix", prefix)
    assert is_optimized() is expected


def test_manifest_is_the_same_each_time() -> None:
    assert manifest({"a": "1"}) == manifest({"a": "1"})
