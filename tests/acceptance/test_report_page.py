"""The evaluation report in a real browser: every picture shows, and a phone need not scroll the page sideways."""

from __future__ import annotations

import json
import re
import subprocess
from html import unescape
from pathlib import Path

import pytest

from monai_train.config import TrainConfig
from monai_train.evaluation.cohorts import evaluated_runs
from monai_train.evaluation.report_files import write_report
from monai_train.training.train import train
from tests.testbed.browser import CHROMIUM, FLAGS
from tests.testbed.converted import make_converted
from tests.testbed.waiting import patience

_HEADLESS = ["--headless", *FLAGS, "--hide-scrollbars"]
MEASURE = """<script>addEventListener("load",()=>{const d=document.documentElement;document.title="MEASURED "+
JSON.stringify({wide:d.scrollWidth,window:innerWidth,images:[...document.images].map(i=>i.naturalWidth),
requests:performance.getEntriesByType("resource").map(r=>r.name.slice(0,5))})})</script>"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("report")
    data = make_converted(root / "data", patients=14, external=3)
    config = TrainConfig(
        epochs=1, samples_per_epoch=32, batch=16, threads=1, external=("outside",), test_share=0.3, validation_share=0.3
    )
    train(data, root / "run", config)
    return write_report(evaluated_runs([root / "run"], flip=False), data, root / "out", None, None).read_text()


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
@pytest.mark.parametrize("width", [500, 1280])
def test_page_fits_the_window_and_all_pictures_show(page: str, width: int, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_text(page.replace("</html>", MEASURE + "</html>"))
    command = [
        str(CHROMIUM),
        *_HEADLESS,
        f"--user-data-dir={tmp_path / 'profile'}",
        f"--window-size={width},1000",
        "--dump-dom",
        file.as_uri(),
    ]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=patience(120), check=True)
    found = re.search(r"<title>MEASURED (.*?)</title>", answer.stdout)
    assert found, "the page did not load"
    measured = json.loads(unescape(found[1]))
    assert measured["window"] == width
    assert measured["wide"] <= width
    assert measured["images"]
    assert min(measured["images"]) > 100
    assert set(measured["requests"]) <= {"data:"}
