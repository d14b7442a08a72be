"""A search finds, prunes, keeps its tables, goes on after SIGKILL and says plainly what does not fit."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState
from rich.console import Console
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.pool import NullPool

import monai_train.training.hyperparameters
from monai_train.config import Augmentation, TrainConfig, TrialSampler
from monai_train.training.checkpoint import BEST, CHECKPOINT
from monai_train.training.hyperparameters import (
    SearchRange,
    SearchSpace,
    open_study,
    read_space,
    scaled,
    search,
    suggest,
)
from tests.testbed.waiting import patience, wait_until
from tests.unit.monai_train.conftest import TINY
from worker.errors import StartError

BASE = TINY.model_copy(update={"epochs": 2, "samples_per_epoch": 32})
FIXED = {
    name: SearchRange(low=value, high=value)
    for name, value in (("weight_decay", 0.05), ("clip_norm", 1.0), ("augmentation", 1.0))
}
SPACE = SearchSpace(
    learning_rate=SearchRange(low=1e-4, high=1e-2, log=True, points=2), network=("resnet18-slim",), **FIXED
)
QUIET = Console(quiet=True)


def _lines(out: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((out / "trials.csv").read_text().splitlines()))


def test_grid_tries_every_point_and_keeps_the_best(tiny_data: Path, tmp_path: Path) -> None:
    study = search(tiny_data, tmp_path, BASE, SPACE, trials=9, sampler=TrialSampler.GRID, console=QUIET)
    assert sorted(one.params["learning_rate"] for one in study.trials) == [1e-4, 1e-2]
    lines = _lines(tmp_path)
    assert [line["epochs"] for line in lines] == ["2", "2"]
    best = max(lines, key=lambda line: float(line["validation_balanced_accuracy"]))
    assert TrainConfig.model_validate_json((tmp_path / "best.json").read_text()).learning_rate == float(
        best["learning_rate"]
    )
    assert {folder.name: (folder / BEST).exists() for folder in (tmp_path / "trials").iterdir()} == {
        line["run"]: line is best for line in lines
    }
    assert (tmp_path / "study.png").stat().st_size > 5000


def test_trials_on_a_cluster_are_those_of_one_study(tiny_data: Path, tmp_path: Path) -> None:
    (tmp_path / "base.json").write_text(BASE.model_dump_json())
    (tmp_path / "space.json").write_text(SPACE.model_dump_json())
    command = [sys.executable, "-m", "monai_train", "search", "--data", str(tiny_data), "--out", "out"]
    command += ["--config", "base.json", "--space", "space.json", "--trials", "2"]
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    done = subprocess.run(
        [*command, "--workers", "2"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=patience(120),
    )
    assert done.returncode == 0, done.stderr
    assert "2 of 2 trials, best" in done.stderr
    assert len(_lines(tmp_path / "out")) == 2
    assert len({line["run"] for line in _lines(tmp_path / "out")}) == 2
    assert (tmp_path / "out" / "best.json").is_file()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_stopped_search_goes_on_with_the_same_trial(
    how: signal.Signals, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = BASE.model_copy(update={"epochs": 3})
    (tmp_path / "base.json").write_text(base.model_dump_json())
    (tmp_path / "space.json").write_text(SPACE.model_dump_json())
    command = [sys.executable, "-m", "monai_train", "search", "--data", str(tiny_data), "--out", str(tmp_path / "out")]
    command += ["--config", str(tmp_path / "base.json"), "--space", str(tmp_path / "space.json"), "--trials", "1"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:

        def written() -> list[Path]:
            assert process.poll() is None
            return list(tmp_path.glob(f"out/trials/*/{CHECKPOINT}"))

        found = wait_until(written, "a checkpoint", every=0.02)
        process.send_signal(how)
        assert process.wait(patience(60)) == (130 if how is signal.SIGINT else -signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    monkeypatch.setattr(monai_train.training.hyperparameters, "_HEARTBEAT_SECONDS", 1)
    time.sleep(4 if how is signal.SIGKILL else 0)
    study = search(tiny_data, tmp_path / "out", base, SPACE, trials=1, console=QUIET)
    assert [one.state for one in study.trials] == [TrialState.FAIL, TrialState.COMPLETE]
    assert study.trials[0].params == study.trials[1].params
    log = list(csv.DictReader((found[0].parent / "log.csv").read_text().splitlines()))
    assert [line["epoch"] for line in log] == ["1", "2", "3"]


def test_poor_trial_is_pruned(tmp_path: Path) -> None:
    study = open_study(f"sqlite:///{tmp_path / 'study.db'}", "s", TrialSampler.TPE, SPACE, "inputs", epochs=4)

    def curve(trial: optuna.Trial) -> float:
        level = 0.2 if trial.number == 4 else 0.8
        for epoch in range(1, 5):
            trial.report(level, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
        return level

    study.optimize(curve, n_trials=5)
    assert [one.state for one in study.trials] == [TrialState.COMPLETE] * 4 + [TrialState.PRUNED]
    assert list(study.trials[4].intermediate_values) == [1]


@pytest.fixture
def own_database(postgres_url: str) -> Iterator[str]:
    """An empty database beside the worker's: both keep an `alembic_version`."""
    engine = create_engine(postgres_url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with engine.connect() as connection:
        connection.execute(text("CREATE DATABASE search"))
    yield make_url(postgres_url).set(database="search").render_as_string(hide_password=False)
    with engine.connect() as connection:
        connection.execute(text("DROP DATABASE search"))


def test_several_machines_share_one_study(tiny_data: Path, tmp_path: Path, own_database: str) -> None:
    for machine in ("first", "second"):
        study = search(
            tiny_data,
            tmp_path / machine,
            BASE,
            SPACE,
            2 if machine == "second" else 1,
            storage=own_database,
            console=QUIET,
        )
    assert len(study.trials) == 2
    assert len(list((tmp_path / "first" / "trials").iterdir())) == 1
    assert len(list((tmp_path / "second" / "trials").iterdir())) == 1


def test_neither_a_restart_nor_another_machine_draws_the_same_values_again(tmp_path: Path) -> None:
    def machine(database: str) -> list[float]:
        study = open_study(f"sqlite:///{tmp_path / database}", "s", TrialSampler.TPE, SPACE, "one", epochs=4)
        study.optimize(lambda trial: suggest(trial, SPACE, BASE).learning_rate, n_trials=2)
        return [trial.params["learning_rate"] for trial in study.trials][-2:]

    shared = [*machine("shared.db"), *machine("shared.db")]
    assert len(set(shared)) == 4
    assert machine("again.db") == shared[:2]


def test_study_of_another_space_is_refused(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'study.db'}"
    open_study(url, "s", TrialSampler.TPE, SPACE, "one", epochs=4)
    with pytest.raises(StartError, match="use a new --name"):
        open_study(url, "s", TrialSampler.TPE, SPACE, "other", epochs=4)


@pytest.mark.parametrize("url", ["sqlite:////nowhere/at/all/study.db", "not a url", "nosuchdb://x"])
def test_database_that_cannot_be_opened_is_one_clear_error(url: str) -> None:
    with pytest.raises(StartError, match="check --storage"):
        open_study(url, "s", TrialSampler.TPE, SPACE, "one", epochs=4)


def test_space_faults_name_the_key(tmp_path: Path) -> None:
    file = tmp_path / "space.json"
    for content, message in (
        ({"learning_rat": {"low": 1, "high": 2}}, "learning_rat"),
        ({"learning_rate": {"low": 2, "high": 1}}, "low must be at most high"),
        ({"learning_rate": {"low": 0, "high": 1, "log": True}}, "above 0"),
        ({"network": ["resnet18-slm"]}, "did you mean resnet18-slim"),
    ):
        file.write_text(json.dumps(content))
        with pytest.raises(StartError, match=message):
            read_space(file)


def test_strength_scales_within_what_is_allowed() -> None:
    strong, none = scaled(Augmentation(), 50), scaled(Augmentation(), 0)
    assert strong.flip == 1
    assert strong.rotate_degrees == 180
    assert set(none.model_dump().values()) == {0}


def test_grid_of_a_logarithmic_range_is_even_in_the_logarithm() -> None:
    assert SearchRange(low=1e-4, high=1e-2, log=True, points=3).grid() == pytest.approx([1e-4, 1e-3, 1e-2])
