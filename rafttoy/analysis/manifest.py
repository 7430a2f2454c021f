"""What a result needs to be understood, or repeated, later: versions, host, commit, flags."""

from __future__ import annotations

import functools
import platform
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from rafttoy import __version__
from rafttoy.worlds import cores

__all__ = ["host", "manifest"]

_PACKAGES = ("google-crc32c", "grpcio", "msgspec", "numpy", "plyvel", "rocksdict", "simpy", "uvloop")


def manifest(flags: Mapping[str, str]) -> dict[str, Any]:
    """`flags` are those that were set, by flag, variable or file. No time stamps: the same run in the model has the same manifest."""
    return {"versions": dict(_versions()), "host": dict(host()), "commit": _commit(), "flags": dict(sorted(flags.items()))}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


@functools.cache
def _versions() -> dict[str, str]:
    """Of this package, Python and what does the work; what is not installed is left out."""
    found = {name: _version(name) for name in _PACKAGES}
    return {"rafttoy": __version__, "python": platform.python_version()} | {name: version for name, version in found.items() if version}


@functools.cache
def host() -> dict[str, Any]:
    """`name`, `system`, `release`, `machine`, `cpu`, and the `cores` that this process may use."""
    return {
        "name": platform.node(),
        "system": platform.system(),
        "release": platform.release(),
        "machine": platform.machine(),
        "cpu": _cpu(),
        "cores": cores(None),
    }


def _cpu() -> str:
    """The processor's own name (Linux), else what Python knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())


@functools.cache
def _commit() -> str:
    """Of the checkout that the package runs from, `+` where files differ from it; empty for an installed one."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return ""
    git = ["git", "-C", str(root)]
    try:
        commit = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, timeout=10, check=True).stdout
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
    return commit.strip() + ("+" if changed.strip() else "")
