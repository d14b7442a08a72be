"""The files of deploy/ fit the program, and each passes its own tool's checks where that is installed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest
import yaml

from worker.config.settings import Settings, load_settings
from worker.db.engine import Database
from worker.send.destinations import kinds
from worker.web.health import health_routes

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
UNIT = (DEPLOY / "brain-mri-worker.service").read_text()
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
STATEFUL_SET, *SERVICES = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())
POD = STATEFUL_SET["spec"]["template"]["spec"]
[CONTAINER] = POD["containers"]
ALERTS = DEPLOY / "alerts.yml"


def tool(name: str) -> str:
    """A program on the path, or one that was installed beside this Python."""
    found = shutil.which(name) or shutil.which(name, path=Path(sys.executable).parent)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def check(*command: str | Path) -> None:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit with a program that is there."""
    file = tmp_path / "brain-mri-worker.service"
    file.write_text(UNIT.replace("/opt/brain-mri-worker/bin/worker", sys.executable))
    return file


def test_the_unit_is_one(unit: Path) -> None:
    check(tool("systemd-analyze"), "verify", unit)


def test_the_unit_leaves_little_exposed(unit: Path) -> None:
    """Exposure at most 2.0 of 10."""
    check(tool("systemd-analyze"), "security", "--no-pager", "--offline=true", "--threshold=20", unit)


@pytest.mark.parametrize(
    "settings",
    [
        dict(re.findall(r"^Environment=(WORKER__\w+)=(\S+)", UNIT, re.MULTILINE)),
        dict(re.findall(r"(WORKER__\w+)=(\S+)", DOCKERFILE)),
        COMPOSE["services"]["worker"]["environment"],
        {variable["name"]: variable.get("value", "postgresql://secret") for variable in CONTAINER["env"]},
    ],
    ids=["unit", "Dockerfile", "compose.yaml", "kubernetes.yaml"],
)
def test_every_setting_is_known(settings: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(settings) == 2
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    load_settings(ROOT / "config.toml", kinds())


def test_the_dockerfile_passes_hadolint() -> None:
    check(tool("hadolint"), DEPLOY / "Dockerfile")


def test_what_compose_mounts_and_opens_is_what_the_image_has() -> None:
    service = COMPOSE["services"]["worker"]
    assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).samefile(DEPLOY / "Dockerfile")
    [data, config] = [entry.split(":")[1] for entry in service["volumes"]]
    assert f"VOLUME {data}\n" in DOCKERFILE
    assert config in DOCKERFILE
    ports = [entry.rpartition(":")[2] for entry in service["ports"]]
    assert f"EXPOSE {' '.join(ports)}\n" in DOCKERFILE
    assert {entry.split(":")[0] for entry in (data, *COMPOSE["volumes"])} == {data, "database", "data"}


def test_the_pod_is_what_the_image_and_the_services_have() -> None:
    assert re.findall(r"^CMD (\[.*\])", DOCKERFILE, re.MULTILINE)[-1] == json.dumps(CONTAINER["args"])
    assert f"USER {POD['securityContext']['runAsUser']}\n" in DOCKERFILE
    ports = {port["name"]: port["containerPort"] for port in CONTAINER["ports"]}
    assert f"EXPOSE {' '.join(str(port) for port in ports.values())}\n" in DOCKERFILE
    for service in SERVICES:
        assert service["spec"]["selector"].items() <= STATEFUL_SET["spec"]["template"]["metadata"]["labels"].items()
        [port] = service["spec"]["ports"]
        assert ports[port["targetPort"]] == port["port"]
    mounted = {mount["name"]: mount["mountPath"] for mount in CONTAINER["volumeMounts"]}
    volumes = [*POD["volumes"], *(claim["metadata"] for claim in STATEFUL_SET["spec"]["volumeClaimTemplates"])]
    assert mounted.keys() == {volume["name"] for volume in volumes}
    assert f"VOLUME {mounted['data']}\n" in DOCKERFILE
    assert CONTAINER["args"][-1].startswith(mounted["config"])
    answered = {route.path for route in health_routes(Settings(), Database("sqlite://"), datetime.now).routes}
    probes = [CONTAINER[probe]["httpGet"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")]
    assert {probe["path"] for probe in probes} <= answered
    assert {probe["port"] for probe in probes} == {"web"}


def test_the_image_asks_after_the_worker_that_it_runs() -> None:
    """With its configuration: else the health check looks for another port."""
    asked, run = [json.loads(match) for match in re.findall(r"^(?:  )?CMD (\[.*\])", DOCKERFILE, re.MULTILINE)]
    assert (asked[1], run[0]) == ("doctor", "serve")
    assert asked[-2:] == run[-2:]


def test_alerts_are_rules_that_fire_when_they_should() -> None:
    promtool = tool("promtool")
    check(promtool, "check", "rules", ALERTS)
    check(promtool, "test", "rules", DEPLOY / "alerts-test.yml")


def test_every_alert_says_what_happened_and_how_bad_it_is() -> None:
    rules = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules) > 8
    for rule in rules:
        assert rule["annotations"]["summary"]
        assert rule["labels"]["severity"] in ("critical", "warning")
    tested = yaml.safe_load((DEPLOY / "alerts-test.yml").read_text())["tests"]
    assert {rule["alert"] for rule in rules} == {
        rule_test["alertname"] for test in tested for rule_test in test["alert_rule_test"]
    }


def test_panels_of_the_dashboard_lie_beside_one_another() -> None:
    panels = json.loads((DEPLOY / "grafana-dashboard.json").read_text())["panels"]
    taken = set()
    for place in [panel["gridPos"] for panel in panels]:
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells
    assert len({panel["id"] for panel in panels}) == len(panels)
