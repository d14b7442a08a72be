"""`make vulnerabilities`: the pinned versions against docs/advisories.toml, and against the advisory service."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
CONSTRAINTS = ROOT / "constraints.txt"


def pinned() -> dict[str, Version]:
    """Version by package, of every line of constraints.txt."""
    lines = re.findall(r"(?m)^([A-Za-z0-9._-]+)==(\S+)", CONSTRAINTS.read_text())
    return {canonicalize_name(name): Version(version) for name, version in lines}


def vulnerable(pins: dict[str, Version]) -> list[str]:
    """A line for each pinned package that is older than the version which mends an advisory on the list."""
    fixed = tomllib.loads((ROOT / "docs/advisories.toml").read_text())["fixed"]
    return [
        f"{name} {pins[name]} is below {one['version']}: {one['id']}"
        for name, one in fixed.items()
        if name in pins and pins[name] < Version(one["version"])
    ]


def main() -> int:
    found = vulnerable(pinned())
    for line in found:
        print(line)
    print(f"{len(found)} of {len(pinned())} pinned packages are known to be vulnerable (docs/advisories.toml)")
    if shutil.which("pip-audit") is None:
        print("The advisory service was not asked: pip-audit is not installed (pipx install pip-audit)")
        return bool(found)
    asked = subprocess.run(["pip-audit", "--no-deps", "--disable-pip", "-r", str(CONSTRAINTS)], check=False)
    return bool(found) or asked.returncode


if __name__ == "__main__":
    sys.exit(main())
