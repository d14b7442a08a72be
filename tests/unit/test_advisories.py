from __future__ import annotations

from packaging.version import Version

from tests.advisories import pinned, vulnerable


def test_no_pinned_version_is_known_to_be_vulnerable() -> None:
    assert len(pinned()) > 50
    assert vulnerable(pinned()) == []


def test_a_version_below_the_one_that_mends_it_is_found() -> None:
    [line] = vulnerable({"pydicom": Version("3.0.1"), "starlette": Version("1.3.1"), "unheard-of": Version("0")})
    assert line == "pydicom 3.0.1 is below 3.0.2: CVE-2026-32711"
