"""The walk of docs/retraining.md: a reader corrects a label, and a model that learned from it answers the next series.

Synthetic heads whose mass tells the class by its place; a small network; every step by the command or the request that
the document names, on one worker's data folder.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import httpx
import numpy as np
import pytest
from typer.testing import CliRunner, Result

import monai_train.cli.app
import worker.cli.app
from monai_train.config import Augmentation, BatchShares, TrainConfig
from monai_train.data.from_worker import SLICES_WITHOUT
from monai_train.evaluation.evaluate import read_split
from monai_train.export.export import export
from monai_train.export.retrain import is_kept_out, read_confirmed_series
from monai_train.training.train import train
from tests.testbed.converted import CLASSES, SIZE, head, make_converted
from tests.testbed.databases import make_tables
from tests.testbed.filled import served
from tests.testbed.instances import Clock, mr_instance, received
from tests.testbed.waiting import patience
from worker.config.settings import Settings, load_settings
from worker.db.engine import Database
from worker.dicom.standard import derive_uid
from worker.jobs.bundle_store import BundleStore
from worker.jobs.model_pool import ModelPool
from worker.jobs.runner import JobRunner
from worker.receive.settle import settle_series
from worker.reporting.outbox import Outbox
from worker.send.destinations import kinds
from worker.service.roles import configure_model
from worker.storage.keeper import InstanceKeeper
from worker.web.app import create_app

CONFIG = TrainConfig(
    epochs=1,
    samples_per_epoch=32,
    batch=16,
    ema_decay=0.5,
    threads=1,
    external=(),
    test_share=0.3,
    validation_share=0.3,
    shares=BatchShares(mirrored_tumour=0, pasted_lesion=0, simulated_lesion=0, tumour_removed=0, pasted_tissue=0),
    augmentation=Augmentation(invert=0, remap=0, gamma=0.1, bias_field=0.1, rotate_degrees=4, flip=0),
)
PATIENTS = 12  # by their names four of them are kept out, with a tumour and without
SLICES = 6
WITH_MASS = (2, 3, 4)  # ordinals
VERSION = "0.0.2"


@dataclass
class Site:
    """A worker without its sockets: instances are kept, series settle, models classify when the test says so."""

    config: Path
    settings: Settings
    database: Database
    clock: Clock = field(default_factory=Clock)

    def receive(self, patient: str, label: str) -> str:
        """A series of a patient as the receiver leaves it; its UID."""
        generator = np.random.default_rng(int.from_bytes(patient.encode()[-4:]))
        keeper = InstanceKeeper(self.database, self.settings.worker.data_dir, self.clock, minimum_free_bytes=0)
        for number in range(SLICES):
            pixels = head(label if number in WITH_MASS else "notumor", generator).astype(np.uint16) * 4
            ds = mr_instance(
                number, patient, PatientID=patient, Rows=SIZE, Columns=SIZE, PixelSpacing=[2, 2],
                PixelData=pixels.tobytes(),
            )  # fmt: skip
            keeper.keep(received(ds))
        keeper.close()
        return derive_uid("series", patient)

    def work(self) -> None:
        """Settle what came, and classify it by every model in use, in shadow too."""
        self.clock.ahead += timedelta(minutes=5)
        settle_series(self.database, self.settings, self.clock())
        models = ModelPool(self.database, BundleStore(self.settings), "test:1", self.clock)
        runner = JobRunner(
            database=self.database, data_dir=self.settings.worker.data_dir, models=models,
            outbox=Outbox(self.settings.worker.data_dir), destinations=[], owner="test:1",
            clock=self.clock, lease=timedelta(minutes=5), timeout=None, attempts=3,
        )  # fmt: skip
        while runner.run_next():
            pass

    def command(self, *arguments: str) -> Result:
        """`worker …` with this site's configuration."""
        return _run(worker.cli.app.app, *arguments, "--config", str(self.config))


def _run(app: object, *arguments: str) -> Result:
    return CliRunner().invoke(app, [str(one) for one in arguments])  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_converted(tmp_path_factory.mktemp("base"), patients=8, external=0)


@pytest.fixture(scope="module")
def present(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The present model: it has hardly learned anything."""
    folder = tmp_path_factory.mktemp("present")
    train(base, folder / "run", CONFIG)
    return export(folder / "run", base, folder / "bundle", "heads", "0.0.1")


@pytest.fixture
def site(present: Path, tmp_path: Path) -> Iterator[Site]:
    config = tmp_path / "config.toml"
    config.write_text(
        f'[worker]\ndata_dir = "var"\nbundle = "{present}"\ninference_threads = 1\n'
        '[database]\nurl = "sqlite:///var/worker.db"\n[web]\nrequire_token = false\n'
    )
    settings = load_settings(config, kinds())
    database = Database(settings.database.url)
    make_tables(database)
    made = Site(config, settings, database)
    made.clock.ahead = timedelta(hours=-1)  # `work` sets it on; it must not come to a month that has not begun
    configure_model(settings, database, made.clock, first_only=True)
    yield made
    database.close()


@pytest.mark.timeout(1200)  # it trains two models: half a minute alone, minutes on a busy machine
def test_a_corrected_label_travels_to_the_model_that_answers_next(
    site: Site, present: Path, base: Path, tmp_path: Path
) -> None:
    truths = {
        site.receive(f"P-{number}", CLASSES.names[number % 4]): CLASSES.names[number % 4] for number in range(PATIENTS)
    }
    site.work()

    # page → readings
    app = create_app(site.settings, site.database, clock=site.clock)
    with served(app) as address, httpx.Client(base_url=address, timeout=patience(60)) as browser:
        for uid, truth in truths.items():
            _read(browser, uid, truth)
        unread = browser.get("/api/v1/series", params={"reading": "unread"}).json()["series"]
        corrected = browser.get("/api/v1/series", params={"reading": "corrected"}).json()["series"]
    read_at = site.clock()
    assert unread == []
    assert corrected  # the present model knows nothing

    # readings → dataset
    exported, confirmed = tmp_path / "exported", tmp_path / "confirmed"
    done = site.command("readings", "export", str(exported))
    assert (done.exit_code, f"{PATIENTS} series with {PATIENTS * SLICES} slices" in done.output) == (0, True), (
        done.output
    )
    done = _run(monai_train.cli.app.app, "convert", "--from-worker", exported, confirmed)
    assert done.exit_code == 0, done.output
    _check_dataset(confirmed, truths)

    # dataset → bundle
    (tmp_path / "gentle.json").write_text(
        CONFIG.model_copy(update={"epochs": 3, "samples_per_epoch": 256, "batch": 8}).model_dump_json()
    )
    out = tmp_path / "new"
    done = _run(
        monai_train.cli.app.app, "retrain", "--bundle", present, "--data", base, "--from-worker", confirmed,
        "--run", tmp_path / "run", "--out", out, "--version", VERSION, "--config", tmp_path / "gentle.json",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "not worse than the present model" in done.output
    for told in ("frozen test, slice", "frozen test, patient", "site, series", "balanced accuracy"):
        assert told in done.output
    assert "## Retrained" in (out / "docs/README.md").read_text()
    kept_out = [series for series in read_confirmed_series(confirmed) if is_kept_out(series, read_split(present))]
    assert {one.label == "notumor" for one in kept_out} == {True, False}

    # bundle → shadow → compare → active, and back
    for command in (["models", "add", str(out)], ["models", "shadow", "heads", VERSION]):
        done = site.command(*command)
        assert done.exit_code == 0, done.output
    uid = site.receive("NEXT-1", "glioma")
    site.work()
    assert _answers(site, uid) == "heads 0.0.1"
    done = site.command("models", "compare", "heads:0.0.1", f"heads:{VERSION}")
    assert done.exit_code == 0, done.output
    done = site.command("models", "activate", "heads", VERSION)
    assert done.exit_code == 0, done.output
    uid = site.receive("NEXT-2", "glioma")
    site.work()
    assert _answers(site, uid) == f"heads {VERSION}"
    done = site.command("models", "rollback")
    assert (done.exit_code, "heads 0.0.1" in done.output) == (0, True), done.output

    # the month
    month = f"{read_at:%Y-%m}"
    done = site.command("report", "--month", month)
    assert done.exit_code == 0, done.output
    assert (
        "Reader's finding and model's result" in (site.settings.worker.data_dir / f"reports/{month}.html").read_text()
    )


def _read(browser: httpx.Client, uid: str, truth: str) -> None:
    """As a reader does: open the page, choose, mark, save."""
    page = browser.get(f"/series/{uid}").text
    fields = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', page[page.index("reading-part") :]))
    slices = "" if truth == "notumor" else f"{WITH_MASS[0] + 1}-{WITH_MASS[-1] + 1}"
    answer = browser.post(f"/series/{uid}/readings", data=fields | {"label": truth, "slices": slices})
    assert answer.status_code == 303, answer.text


def _check_dataset(confirmed: Path, truths: dict[str, str]) -> None:
    with (confirmed / "manifest.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["truth"] for row in rows} == {"marked", "series", ""}
    assert {row["label"] for row in rows if not row["truth"]} == {""}  # shown with their series, and not learned from
    marked = [row for row in rows if row["truth"] == "marked"]
    assert {int(row["ordinal"]) for row in marked} == set(WITH_MASS)
    assert len(marked) == PATIENTS * 3 // 4 * len(WITH_MASS)
    assert all(row["patient_group"].startswith("patient-") for row in rows)
    assert max(int(row["ordinal"]) for row in rows) < max(SLICES, SLICES_WITHOUT)
    series = read_confirmed_series(confirmed)
    assert len({one.patient_group for one in series}) == len(truths)
    assert all(len(one.files) == SLICES and one.files[0].is_file() for one in series)


def _answers(site: Site, uid: str) -> str | None:
    from worker.db.views.search import Search, find_series

    with site.database.read() as session:
        [found] = find_series(session, Search(series_instance_uid=uid))
    assert found.status in ("classified", "not-assessed")
    return found.model
