"""The viewer's files and policy; tests/acceptance/test_ohif.py opens a study in it where it is installed."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

import httpx
import pytest

from tests.testbed.databases import make_tables
from tests.testbed.web_site import bearer, serving, settings_of
from worker.db.engine import Database
from worker.db.tables import TokenRole
from worker.web import ohif

SCRIPT = "window.PUBLIC_URL = '/ohif/';"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data folder with a viewer of three files."""
    viewer = tmp_path / ohif.FOLDER
    viewer.mkdir()
    (viewer / "index.html").write_text(f"<html><script>{SCRIPT}</script></html>")
    (viewer / "app.js").write_text("1")
    (viewer / "codec.wasm").write_bytes(b"\0asm")
    database = Database(f"sqlite:///{tmp_path / 'worker.db'}")
    make_tables(database)
    database.close()
    return tmp_path


def test_the_page_needs_a_token_and_runs_only_its_own_inline_script(folder: Path, shown_bundle: Path) -> None:
    assert ohif.is_installed(folder)
    with serving(settings_of(folder, shown_bundle, require_token=True)) as (client, database):
        assert client.get("/ohif/viewer").status_code == 401
        answer = client.get("/ohif/viewer", headers=bearer(database, TokenRole.READ, "reader"))
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = answer.headers["content-security-policy"]
    assert f"'sha256-{digest}'" in policy
    assert "script-src 'self'" in policy
    assert "'unsafe-eval'" not in policy


def test_files_are_public_but_only_those_of_the_viewer(folder: Path, shown_bundle: Path) -> None:
    with serving(settings_of(folder, shown_bundle, require_token=True)) as (client, _):
        assert client.get("/ohif/app.js").text == "1"
        assert client.get("/ohif/codec.wasm").headers["content-type"] == "application/wasm"
        for path in ("index.html", "missing.js", "..%2Fworker.db", "%2Fetc%2Fpasswd"):
            assert client.get(f"/ohif/{path}").status_code == 404


def test_the_settings_name_our_own_source_alone(client: httpx.Client) -> None:
    text = client.get("/ohif/app-config.js").text
    config = json.loads(text.removeprefix("window.config = ").partition(";\n")[0])
    [source] = config["dataSources"]
    assert {source["configuration"][key] for key in ("qidoRoot", "wadoRoot", "wadoUriRoot")} == {"/dicom-web"}
    assert "http" not in json.dumps(config)


def test_without_the_viewer_the_page_says_how_to_install_it(client: httpx.Client) -> None:
    answer = client.get("/ohif/")
    assert (answer.status_code, "make ohif" in answer.json()["detail"]) == (404, True)


def test_a_name_that_no_file_can_have_is_404(folder: Path, shown_bundle: Path) -> None:
    with serving(settings_of(folder, shown_bundle)) as (client, _):
        for name in ("%00", "a%00.js", "x" * 300, "x/" * 2000 + "x"):
            assert client.get(f"/ohif/{name}").status_code == 404, name
