"""What a result needs to be understood, or repeated, later: versions, host, commit, flags."""

from __future__ import annotations

import functools
import platform
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from rafttoy import __version__
from rafttoy.worlds import cores

__all__ = ["host", "is_optimized", "manifest"]

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
    python = {"python": platform.python_version(), "python_build": "optimized" if is_optimized() else "plain"}
    return {"rafttoy": __version__} | python | {name: version for name, version in found.items() if version}


def is_optimized() -> bool:
    """Whether this interpreter was built with a profile of itself (`--enable-optimizations`), as a distribution's and python.org's are.
    What pyenv builds from source is not, unless it is told to.

    Event loops take that much longer on one that is not. Medians of five in turn, Debian's 3.11.2 over a plain 3.11.7, parallel-append over
    tcp: in memory 1.42, 1.30 and 1.15 times as fast with 1, 16 and 128 clients, with etcd's log 1.17, 1.21 and 1.12."""
    configured = sysconfig.get_config_var("CONFIG_ARGS")  # where Debian leaves it out, since it has make do it
    return configured is None or "--enable-optimizations" in configured or sys.base_prefix == "/usr"


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
