from __future__ import annotations

import httpx

from tests.testbed.web_site import serving, signed_in
from worker.db.engine import Database
from worker.db.tables import TokenRole
from worker.web.dependencies import Site


def test_only_an_operator_uploads_and_only_where_it_is_enabled(guarded: tuple[httpx.Client, Database]) -> None:
    with signed_in(*guarded, TokenRole.ANNOTATE, "no-uploader") as reader:
        assert reader.get("/upload").status_code == 403
    with signed_in(*guarded, TokenRole.OPERATE, "uploader") as operator:
        page = operator.get("/upload").text
        assert "Uploading is disabled" in page
        assert 'type="file"' not in page


def test_the_page_names_the_limits_of_the_configuration(site: Site) -> None:
    web = site.settings.web.model_copy(update={"stow": True, "stow_maximum_bytes": 1 << 21})
    with serving(site.settings.model_copy(update={"web": web})) as (client, _):
        page = client.get("/upload").text
        assert f'data-largest="{512 << 20}" data-most="{1 << 21}"' in page
        assert client.get("/static/upload.js").headers["content-type"].startswith("text/javascript")
