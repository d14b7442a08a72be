from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.testbed.filled import served
from tests.testbed.instances import later
from tests.testbed.waiting import patience
from worker.config.settings import Settings
from worker.db import tokens
from worker.db.engine import Database
from worker.db.processes import add_stage_times
from worker.db.tables import TokenRole
from worker.results import ModelIdentity
from worker.stage_times import BOUNDS, LONGER, STAGES, StageCount, StageKey
from worker.web.app import create_app
from worker.web.metrics import _bounded

DEPLOY = Path(__file__).parents[3] / "deploy"
MINUTES = 60
PREFIX = "mri_worker_"


def scraped(answer: httpx.Response) -> dict[str, float]:
    """Every sample, as `name{label="value"}`, labels in order, without the common prefix."""
    assert answer.status_code == 200
    values = {}
    for family in text_string_to_metric_families(answer.text):
        assert family.documentation
        assert family.type in ("gauge", "counter", "histogram")
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            values[sample.name.removeprefix(PREFIX) + (f"{{{labels}}}" if labels else "")] = sample.value
    return values


def test_a_scrape_tells_how_things_stand(client: httpx.Client, model: ModelIdentity) -> None:
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    values = scraped(answer)
    expected = {
        "database_up": 1, "audit_faults": 0, "instances_received_total": 4, "series_received_total": 4,
        'series{status="pending"}': 1, 'series{status="failed"}': 1, 'series{status="refused"}': 1,
        'series{status="answered"}': 1, 'series_refused{reason="modality"}': 1,
        "series_oldest_pending_seconds": 600 - 3 * MINUTES,
        'jobs{state="pending"}': 0, 'jobs{state="parked"}': 1, 'jobs{state="done"}': 1,
        'studies{state="open"}': 4, 'studies{state="parked"}': 0, 'studies{state="answered"}': 0,
        "studies_oldest_open_seconds": 600, "jobs_urgent_oldest_pending_seconds": 0, "studies_contradicted_total": 0,
        "jobs_oldest_pending_seconds": 0, 'results_total{class="glioma",model="test-model 1.0"}': 1,
        'deliveries{destination="pacs",state="pending"}': 1, 'deliveries{destination="pacs",state="delivered"}': 0,
        'delivery_oldest_seconds{destination="pacs"}': 600 - 5, 'processes{role="receive"}': 0,
        "conflicts": 0, "instances_corrected_total": 0,
        f'model_info{{name="test-model",sha256="{model.sha256}",version="1.0"}}': 1,
    }  # fmt: skip
    assert {name: values[name] for name in expected} == expected
    assert 0 < values["disk_free_bytes"] <= values["disk_size_bytes"]


def expressions() -> list[str]:
    """What the dashboard and the alerts ask for."""
    dashboard = json.loads((DEPLOY / "grafana-dashboard.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    for group in yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"]:
        queries += [rule["expr"] for rule in group["rules"]]
    return queries


@pytest.mark.parametrize("query", expressions())
def test_dashboard_and_alerts_ask_for_what_a_scrape_tells(client: httpx.Client, query: str) -> None:
    text = client.get("/metrics").text
    metrics = set(re.findall(r"^# HELP (\w+)", text, re.MULTILINE))
    histograms = re.findall(r"^# TYPE (\w+) histogram", text, re.MULTILINE)
    metrics |= {f"{name}_{sample}" for name in histograms for sample in ("bucket", "count", "sum")}
    named = re.findall(rf"\b({PREFIX}\w+)(?:{{(.*?)}})?", query)
    assert named
    for metric, selectors in named:
        assert metric in metrics
        for label, value in re.findall(r'(\w+)!?=~?"([^"]*)"', selectors):
            values = set(re.findall(rf'^{metric}{{.*\b{label}="([^"]*)"', text, re.MULTILINE))
            assert label == "job" or set(value.split("|")) <= values  # Prometheus itself adds the job


def test_the_guide_lists_every_metric_with_its_labels(client: httpx.Client) -> None:
    guide = (DEPLOY.parent / "docs" / "deploying.md").read_text()
    listed = re.findall(r"`([a-z_]+)(?:\{([a-z0-9,]*)\})?`", guide.split("|---|---|\n")[1].split("\n\n")[0])
    text = client.get("/metrics").text
    assert {PREFIX + name for name, _ in listed} == set(re.findall(r"^# HELP (\w+)", text, re.MULTILINE))
    for name, labels in listed:
        for sample in re.findall(rf"^{PREFIX}{name}\{{(.*)\}} ", text, re.MULTILINE):
            assert set(re.findall(r"(\w+)=", sample)) == set(labels.split(","))


def test_no_identifier_is_in_a_scrape(client: httpx.Client, model: ModelIdentity) -> None:
    text = client.get("/metrics").text.replace(model.sha256, "")
    assert not re.search(r"ID-|Family|ACC-|\d+(\.\d+){3,}", text)


def test_a_scrape_needs_a_token_that_reads(guarded: tuple[httpx.Client, Database]) -> None:
    client, database = guarded
    assert client.get("/metrics").status_code == 401
    with database.write() as session:
        _, token = tokens.add_token(session, "prometheus", TokenRole.READ, later(0), None)
    assert client.get("/metrics", headers={"Authorization": f"Bearer {token}"}).status_code == 200


def test_open_metrics_are_given_to_who_asks(client: httpx.Client) -> None:
    answer = client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")


def test_a_database_that_is_away_is_told_and_the_disk_still_is(tmp_path: Path) -> None:
    settings = Settings.model_validate({"worker": {"data_dir": tmp_path}, "web": {"require_token": False}})
    database = Database(f"sqlite:///{tmp_path / 'empty.db'}")  # without tables
    with served(create_app(settings, database)) as address:
        values = scraped(httpx.get(f"{address}/metrics", timeout=patience(60)))
    database.close()
    assert values["database_up"] == 0
    assert values["disk_free_bytes"] > 0
    assert "series_received_total" not in values


def test_stage_times_are_a_histogram_that_shows_every_stage(guarded: tuple[httpx.Client, Database]) -> None:
    client, database = guarded
    counts = {50: StageCount(2, 0.07), 5_000: StageCount(1, 3.0), LONGER: StageCount(1, 120.0)}
    with database.write() as session:
        add_stage_times(session, {StageKey("series", "network", bound): count for bound, count in counts.items()})
        _, token = tokens.add_token(session, "stages", TokenRole.READ, later(0), None)
    values = scraped(client.get("/metrics", headers={"Authorization": f"Bearer {token}"}))

    def bucket(le: str) -> float:
        return values[f'stage_seconds_bucket{{le="{le}",stage="network",work="series"}}']

    assert [bucket(le) for le in ("0.02", "0.05", "2.0", "5.0", "100.0", "+Inf")] == [0, 2, 2, 3, 3, 4]
    assert values['stage_seconds_count{stage="network",work="series"}'] == 4
    assert values['stage_seconds_sum{stage="network",work="series"}'] == pytest.approx(123.07)
    shown = [name for name in values if name.startswith("stage_seconds_bucket")]
    assert len(shown) == sum(len(stages) for stages in STAGES.values()) * (len(BOUNDS) + 1)
    assert values['stage_seconds_count{stage="send",work="delivery"}'] == 0


def test_promtool_has_nothing_to_say_about_a_scrape(client: httpx.Client) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed")
    text = client.get("/metrics").text
    done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_values_of_a_label_are_bounded() -> None:
    numbers = {f"reason-{number}": number for number in range(1, 151)}
    bounded = _bounded(numbers, "other")
    assert len(bounded) == 101
    assert sum(bounded.values()) == sum(numbers.values())
    assert bounded["other"] == sum(range(1, 51))
