from __future__ import annotations

import httpx
from sqlalchemy import select, update

from tests.testbed.instances import encoded, later, mr_instance
from tests.testbed.web_site import serving, signed_in
from worker.audit.messages import AuditEvent
from worker.config.sections import PrivacySection
from worker.db.engine import Database
from worker.db.tables import InstanceRow, TokenRole
from worker.dicom.standard import derive_uid
from worker.web.dependencies import Site

PATH = f"/series/{derive_uid('series', 'a')}/tags"


def test_a_reader_sees_the_header_as_text_and_the_trail_says_so(site: Site, audited: list[AuditEvent]) -> None:
    with site.database.read() as session:
        [path] = session.scalars(select(InstanceRow.path).where(InstanceRow.id == 1))
    file = site.data_dir / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(encoded(mr_instance(1, "a", StudyDescription="<script>alert(1)</script>")))
    with serving(site.settings, audited.append) as (client, database):
        page = client.get(PATH).text
        assert "Tags of image 1 of 1" in page
        assert "(0008,1030)" in page
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
        assert "<script>alert" not in page
        assert audited[-1].id.meaning == "DICOM Instances Accessed"
        assert [client.get(f"{PATH}?image={number}").status_code for number in (2, 0)] == [404, 422]
        assert client.get("/series/1.2/tags").status_code == 404
        file.write_bytes(b"no DICOM")
        assert "cannot be read" in client.get(PATH).text
        with database.write() as session:
            session.execute(update(InstanceRow).values(removed_at=later(1)))
        assert client.get(PATH).status_code == 410


def test_nobody_without_a_token_or_where_the_database_has_pseudonyms(
    guarded: tuple[httpx.Client, Database], site: Site
) -> None:
    assert guarded[0].get(PATH).status_code == 401
    with signed_in(*guarded, TokenRole.READ, "tag-reader") as reader:
        assert "Tags" in reader.get(PATH).text
    privacy = PrivacySection(pseudonymise=True, pseudonym_key="k" * 32)
    settings = site.settings.model_copy(update={"privacy": privacy})
    with serving(settings) as (client, _):
        assert client.get(PATH).status_code == 403
