"""What a result tells of where it comes from."""

from __future__ import annotations

import re
import sys

from rafttoy.analysis.manifest import manifest


def test_manifest_names_versions_host_commit_and_flags() -> None:
    found = manifest({"seed": "7", "conc": "1,2"})
    assert list(found) == ["versions", "host", "commit", "flags"]
    assert found["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert {"rafttoy", "simpy", "grpcio"} <= set(found["versions"])
    assert found["host"]["cores"] >= 1
    assert re.fullmatch(r"([0-9a-f]{12}\+?)?", found["commit"])
    assert found["flags"] == {"conc": "1,2", "seed": "7"}


def test_manifest_is_the_same_each_time() -> None:
    assert manifest({"a": "1"}) == manifest({"a": "1"})
