"""The exploration page shows the data as they are, stands alone and trusts no file name."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from monai_train.cli.app import app
from monai_train.data.convert import convert
from monai_train.data.explore import explore
from tests.testbed.browser import CHROMIUM, FLAGS
from tests.unit.monai_train.data.test_duplicates import head
from worker.errors import StartError


@pytest.fixture
def src(tmp_path: Path) -> Path:
    """Two classes that their colour mode betrays, a copy across the split, a clash of labels, an evil name."""
    source = tmp_path / "src"

    def save(name: str, grey: np.ndarray, mode: str) -> None:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.ascontiguousarray(grey)).convert(mode).save(source / name)

    for n in (1, 2, 3):
        save(f"Training/glioma/{n}.png", head(n), "RGB")
        save(f"Training/notumor/{n}.png", head(n + 10), "L")
    save("Testing/glioma/copy.png", head(1)[::-1], "RGB")
    save("Testing/notumor/<b>clash.png", head(2), "L")
    (source / "Training" / "glioma" / "broken.png").write_bytes(b"x")
    return source


def test_page_stands_alone_and_its_pictures_open(src: Path, tmp_path: Path) -> None:
    explore(src, tmp_path / "out")
    text = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    sources = re.findall(r'src="([^"]*)"', text)
    assert len(sources) == 6  # classes, two sample rows, intensity, same pictures, conflicts
    for source in sources:
        head_part, content = source.split(",")
        assert head_part == "data:image/png;base64"
        Image.open(io.BytesIO(base64.b64decode(content))).load()
    assert "http" not in text
    assert "<b>clash" not in text


def test_page_says_what_is_wrong_with_the_data(src: Path, tmp_path: Path) -> None:
    explore(src, tmp_path / "out")
    text = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "The mode alone predicts the class of 100.0%" in text
    assert "2 of 2 test images are known from train" in text
    assert "1 picture with labels that contradict each other" in text
    assert "not-an-image" in text
    assert "<td>flip_ud<td>1" in text


def test_csv_has_a_row_an_image_and_json_is_the_audit(src: Path, tmp_path: Path) -> None:
    found = explore(src, tmp_path / "out")
    with (tmp_path / "out" / "images.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == len(found.images) == 8
    one = next(row for row in rows if row["path"] == "Training/glioma/1.png")
    copy = next(row for row in rows if row["path"] == "Testing/glioma/copy.png")
    assert (one["mode"], one["format"], one["rows"], one["columns"]) == ("RGB", "PNG", "200", "200")
    assert float(one["mean_grey"]) == pytest.approx(head(1).mean() / 255, abs=0.02)
    assert one["picture_group"] == copy["picture_group"]
    assert json.loads((tmp_path / "out" / "audit.json").read_text(encoding="utf-8"))["n"] == 8


def test_converted_folder_and_sixteen_bits_are_shown(src: Path, tmp_path: Path) -> None:
    Image.fromarray(head(7).astype(np.uint16) * 250).save(src / "Training" / "notumor" / "deep.png")
    convert(src, tmp_path / "converted")
    found = explore(tmp_path / "converted", tmp_path / "out")
    assert {one.mode for one in found.prints} == {"MONOCHROME2"}
    assert "The mode alone" not in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_same_data_give_the_same_page(src: Path, tmp_path: Path) -> None:
    explore(src, tmp_path / "one")
    explore(src, tmp_path / "two")
    for name in ("report.html", "images.csv", "audit.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_command_prints_the_audit_and_where_the_page_is(src: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["explore", str(src), "--out", str(tmp_path / "out")])
    assert result.exit_code == 0
    assert "same picture" in result.stdout
    assert str(tmp_path / "out" / "report.html") in result.stdout


def test_output_that_cannot_be_written_says_so(src: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StartError, match="cannot write"):
        explore(src, tmp_path / "file" / "out")


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_page_fits_a_phone(src: Path, tmp_path: Path) -> None:
    """What is wider than the screen scrolls by itself."""
    from playwright.sync_api import sync_playwright

    explore(src, tmp_path / "out")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 390, "height": 800})
        page.goto((tmp_path / "out" / "report.html").as_uri())
        width = page.evaluate("document.documentElement.scrollWidth")
        tables = page.evaluate("[...document.querySelectorAll('table')].map(t => t.parentElement.className)")
        browser.close()
    assert width == 390
    assert set(tables) == {"wide"}
