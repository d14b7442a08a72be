from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread

from tests.testbed.answered import answer
from tests.testbed.databases import make_tables
from tests.testbed.instances import mr_instance
from tests.testbed.web_site import serving, settings_of
from worker.db.engine import Database
from worker.dicom.standard import derive_uid
from worker.inference.bundle import verified_identity
from worker.results import Activation

WHOLE = Activation(rows=((255, 255), (255, 255)), top=0.0, left=0.0, height=1.0, width=1.0)
SERIES = f"/series/{derive_uid('series', 'a')}"


@pytest.fixture(scope="module")
def received(tmp_path_factory: pytest.TempPathFactory, shown_bundle: Path) -> Iterator[tuple[httpx.Client, Path]]:
    """Series a with its two images and its Secondary Capture; and the data folder."""
    folder = tmp_path_factory.mktemp("images")
    settings = settings_of(folder, shown_bundle)
    database = Database(settings.database.url)
    make_tables(database)
    model = verified_identity(shown_bundle)
    answer(database, folder, "a", 2)
    answer(database, folder, "lesion", 1, model=model, activation=WHOLE)
    answer(database, folder, "nothing", 1, model=model, label="notumor", activation=WHOLE)  # as earlier versions did
    answer(database, folder, "model gone", 1, activation=WHOLE)
    answer(database, folder, "no side", 1, model=model, ImageOrientationPatient=None)
    database.close()
    with serving(settings) as (client, _):
        yield client, folder


def _pixels(response: httpx.Response) -> np.ndarray:
    assert (response.status_code, response.headers["content-type"]) == (200, "image/png")
    return np.asarray(Image.open(io.BytesIO(response.content)))


def test_a_slice_is_shown_through_a_window_that_can_be_changed(received: tuple[httpx.Client, Path]) -> None:
    client, _ = received
    shown = _pixels(client.get(f"{SERIES}/slices/0.png"))
    assert shown.shape[0] == shown.shape[1] >= mr_instance().Rows
    assert (shown.min(), shown.max()) == (0, 255)
    darker = _pixels(client.get(f"{SERIES}/slices/0.png?low=0.5&high=1.5"))
    assert darker.mean() < shown.mean() / 2


def test_a_slice_tells_its_edges_and_its_position(received: tuple[httpx.Client, Path]) -> None:
    client, _ = received
    edges = {"left": "R", "right": "L", "top": "A", "bottom": "P"}
    facts = client.get(f"{SERIES}/slices/1.json").json()
    low, high = facts.pop("range")
    assert facts == {"edges": edges, "position_mm": 10.0}
    assert low < high
    unknown = client.get(f"/series/{derive_uid('series', 'no side')}/slices/0.json").json()
    assert (unknown["edges"], unknown["position_mm"]) == (None, None)
    assert client.get(f"{SERIES}/slices/9.json").status_code == 404


def test_only_a_lesion_has_a_map(received: tuple[httpx.Client, Path]) -> None:
    client, _ = received
    series = {name: f"/series/{derive_uid('series', name)}" for name in ("lesion", "nothing", "model gone")}
    answers = {name: client.get(f"{path}/slices/0/activation.png") for name, path in series.items()}
    assert _pixels(answers["lesion"]).shape == (*_pixels(client.get(f"{series['lesion']}/slices/0.png")).shape, 4)
    assert [answers[name].status_code for name in ("nothing", "model gone")] == [404, 404]
    pages = {name: client.get(path).text for name, path in series.items()}
    assert 'data-maps="0"' in pages["lesion"]
    assert 'data-maps=""' in pages["nothing"]
    assert "does not exclude a tumour" in pages["nothing"]
    assert "does not exclude a tumour" not in pages["lesion"] + pages["model gone"]


def test_the_secondary_capture_is_shown_as_it_was_sent(received: tuple[httpx.Client, Path]) -> None:
    client, folder = received
    read = [(dcmread(file), file) for file in (folder / "objects").rglob("*.dcm")]
    objects = {ds.Modality: file for ds, file in read if ds.PatientID == "ID-a"}
    assert np.array_equal(_pixels(client.get(f"{SERIES}/picture.png")), dcmread(objects["OT"]).pixel_array)
    objects["OT"].unlink()
    response = client.get(f"{SERIES}/picture.png")
    assert (response.status_code, "missing from the data folder" in response.json()["detail"]) == (404, True)


def test_a_file_that_is_missing_is_404(received: tuple[httpx.Client, Path]) -> None:
    client, folder = received
    for file in (folder / "instances").rglob("*.dcm"):
        file.unlink()
    response = client.get(f"{SERIES}/slices/1.png")
    assert (response.status_code, "missing from the data folder" in response.json()["detail"]) == (404, True)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("slices/0.png", 404),  # the fixture has no files
        ("slices/9.png", 404),
        ("slices/0.png?low=1&high=0", 422),
        ("slices/0/activation.png", 404),
        ("picture.png", 404),
    ],
)
def test_an_image_that_does_not_exist_is_a_problem(client: httpx.Client, path: str, status: int) -> None:
    answer = client.get(f"{SERIES}/{path}")
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
