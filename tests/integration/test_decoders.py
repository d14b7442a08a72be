"""A stored image whose codec dies: the request fails, the web role does not."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import chain

import httpx
import pytest
from pydicom import dcmread
from pydicom.filebase import DicomBytesIO
from pydicom.uid import JPEGExtended12Bit, JPEGLosslessSV1

from tests.faults.decoders import compressed, mutants
from tests.testbed.databases import make_tables
from tests.testbed.filled import served
from tests.testbed.instances import mr_instance, received
from tests.testbed.waiting import patience, wait_until
from worker.config.sections import WebSection
from worker.config.settings import Settings
from worker.db.engine import Database
from worker.decoding import tasks
from worker.decoding.answers import Busy
from worker.decoding.decoder import Decoder
from worker.decoding.pool import DecoderPool, FileKilledDecoder
from worker.errors import NotAssessable
from worker.storage.acceptance import StoreRequest
from worker.storage.keeper import InstanceKeeper
from worker.web.app import create_app


@pytest.fixture(scope="module")
def killer(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The first mutant that ends a decoder."""
    folder = tmp_path_factory.mktemp("mutants")
    pool = DecoderPool(WebSection(decoder_processes=1, decoder_seconds=5), folder)
    sources = [mutants(compressed(syntax, folder), 1500, 11) for syntax in (JPEGExtended12Bit, JPEGLosslessSV1)]
    try:
        for content in chain(*sources):
            path = folder / "mutant.dcm"
            path.write_bytes(content)
            try:
                pool.answer(tasks.native_frames(path), "test")
            except FileKilledDecoder:
                return content
            except NotAssessable:
                continue
    finally:
        pool.close()
    pytest.fail("no mutant ends a decoder: is GDCM mended?")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory, killer: bytes) -> Iterator[tuple[httpx.Client, str, str]]:
    """A client, and the addresses of a good instance and of the killer."""
    folder = tmp_path_factory.mktemp("archive")
    settings = Settings.model_validate(
        {
            "worker": {"data_dir": folder},
            "database": {"url": f"sqlite:///{folder / 'worker.db'}"},
            "web": {"require_token": False},
        }
    )
    database = Database(settings.database.url)
    make_tables(database)
    keeper = InstanceKeeper(database, folder, lambda: datetime.now(UTC), 0)
    good = mr_instance()
    keeper.keep(received(good))
    ds = dcmread(DicomBytesIO(killer))
    keeper.keep(StoreRequest(ds.SOPClassUID, ds.SOPInstanceUID, ds.file_meta.TransferSyntaxUID, killer))
    keeper.close()
    paths = [
        f"/dicom-web/studies/{one.StudyInstanceUID}/series/{one.SeriesInstanceUID}/instances/{one.SOPInstanceUID}"
        for one in (good, ds)
    ]
    with (
        served(create_app(settings, database)) as address,
        httpx.Client(base_url=address, timeout=patience(60)) as client,
    ):
        yield client, paths[0], paths[1]
    database.close()


@pytest.mark.parametrize(
    "resource",
    ["/frames/1", "/rendered", "/thumbnail", "/bulkdata/7FE00010", "?transfer-syntax", "/frames/1/rendered"],
)
def test_every_way_to_its_pixels_is_422_and_other_images_are_answered(
    archive: tuple[httpx.Client, str, str], resource: str
) -> None:
    client, good, bad = archive
    for _ in range(3):
        answer = client.get(bad + resource)
        assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
        assert client.get(good + resource).status_code == 200
    assert client.get("/health/live").status_code == 200
    deaths = re.findall(r'decoder_deaths_total{cause="signal \d+"} (\d+)', client.get("/metrics").text)
    assert sum(map(int, deaths)) == 1  # it is not tried again


def test_other_routes_answer_while_all_decoders_and_their_queue_are_taken(
    archive: tuple[httpx.Client, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    client, good, _ = archive
    release = threading.Event()

    def take_none(_pool: DecoderPool) -> Decoder:
        release.wait(patience(120))
        raise Busy

    monkeypatch.setattr(DecoderPool, "_take", take_none)
    statuses: list[int] = []

    def ask(number: int) -> None:
        with httpx.Client(base_url=client.base_url, timeout=patience(120)) as other:
            statuses.append(other.get(f"{good}/rendered?quality={number + 1}").status_code)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(40)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(statuses) >= 31, "those beyond a caller's share to be refused", 20, every=0.05)
    assert statuses == [503] * 31  # a caller gets half of 2 + 16
    assert client.get("/health/ready").status_code in (200, 503)
    release.set()
    for thread in threads:
        thread.join()
