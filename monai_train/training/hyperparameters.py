"""`monai-train search`: Optuna over learning rate, weight decay, clipping, strength of augmentation and network.

A trial is one `train` on the training patients; its figure is the balanced accuracy on the validation patients, so the
test stays unseen. The study lives in a database: SQLite beside the runs, or a PostgreSQL database of its own for
several machines that search together. A search that was stopped goes on; the trial that was cut off goes on from its
last epoch.

OUT/study.db                 the study (unless --storage names another database)
OUT/trials/<hash>/           the run of each trial
OUT/trials.csv, study.png    every trial, and the pictures of the study
OUT/best.json                the best configuration, for `train --config`
"""

from __future__ import annotations

import csv
import hashlib
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.samplers import BaseSampler, GridSampler, TPESampler
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, Trial, TrialState
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from rich.console import Console
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from monai_train.config import Augmentation, TrainConfig, TrialSampler
from monai_train.data.manifest import data_sha256, read_manifest
from monai_train.networks.registry import find_network
from monai_train.training.checkpoint import BEST, CHECKPOINT, read_checkpoint
from monai_train.training.train import DivergedError, train
from worker.errors import StartError

_HEARTBEAT_SECONDS = 10
_DONE = (TrialState.COMPLETE, TrialState.PRUNED)


class SearchRange(BaseModel):
    """Numbers from `low` to `high`; the grid takes `points` of them, evenly, or evenly in the logarithm."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    low: float = Field(ge=0)
    high: float = Field(ge=0)
    log: bool = False
    points: int = Field(2, ge=1)

    @model_validator(mode="after")
    def _ordered(self) -> SearchRange:
        if self.low > self.high or (self.log and self.low <= 0):
            raise ValueError("low must be at most high, and above 0 on a logarithmic scale")
        return self

    def grid(self) -> list[float]:
        """The grid's values."""
        if self.points == 1 or self.low == self.high:
            return [self.low]
        inner = [i / (self.points - 1) for i in range(1, self.points - 1)]
        if self.log:
            return [self.low, *(self.low * (self.high / self.low) ** share for share in inner), self.high]
        return [self.low, *(self.low + (self.high - self.low) * share for share in inner), self.high]


class SearchSpace(BaseModel):
    """What is searched. `augmentation` multiplies every probability and range of the base configuration's."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    learning_rate: SearchRange = SearchRange(low=3e-4, high=6e-3, log=True, points=3)
    weight_decay: SearchRange = SearchRange(low=1e-3, high=0.2, log=True)
    clip_norm: SearchRange = SearchRange(low=0.3, high=5, log=True)
    augmentation: SearchRange = SearchRange(low=0.3, high=1.5)
    network: tuple[str, ...] = Field(("resnet18-slim", "resnet18"), min_length=1)

    def ranges(self) -> dict[str, SearchRange]:
        """The numbers that are searched, by name."""
        return {name: value for name, value in self if isinstance(value, SearchRange)}


def read_space(path: Path | None) -> SearchSpace:
    """The space of a JSON file, the default where there is none. StartError naming the key that does not fit."""
    if path is None:
        return SearchSpace()
    try:
        space = SearchSpace.model_validate_json(path.read_text())
    except OSError as error:
        raise StartError("unreadable-config", f"cannot read {path}: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise StartError("invalid-config", f"{path}, {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    for name in space.network:
        find_network(name)
    return space


def scaled(augmentation: Augmentation, strength: float) -> Augmentation:
    """Every probability and range times `strength`, probabilities and shares at most what they may be."""
    highest = {"rotate_degrees": 180.0, "scale": 0.9, "shift": 0.9, "gamma": 4.0, "bias_field": 4.0, "noise": 4.0}
    values = {name: min(highest.get(name, 1.0), value * strength) for name, value in augmentation}
    return Augmentation.model_validate(values)


def suggest(trial: Trial, space: SearchSpace, base: TrainConfig) -> TrainConfig:
    """The configuration of a trial."""
    drawn = {name: trial.suggest_float(name, one.low, one.high, log=one.log) for name, one in space.ranges().items()}
    strength = drawn.pop("augmentation")
    network = trial.suggest_categorical("network", space.network)
    changes = {**drawn, "network": network, "augmentation": scaled(base.augmentation, strength)}
    return TrainConfig.model_validate({**base.model_dump(), **changes})


def open_study(
    storage: str, name: str, sampler: TrialSampler, space: SearchSpace, inputs: str, epochs: int
) -> optuna.Study:
    """The study of that name, made where it does not exist; what another process left unfinished is tried again.

    Raises StartError for a database that cannot be used and a study of other data, space or configuration.
    """
    grid: dict[str, Any] = {key: one.grid() for key, one in space.ranges().items()} | {"network": list(space.network)}
    chosen: BaseSampler = GridSampler(grid, seed=7) if sampler is TrialSampler.GRID else TPESampler(seed=7)
    pruner = optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=max(1, epochs // 4))
    try:
        with warnings.catch_warnings():
            # How Optuna learns that a machine died; experimental since 2021.
            warnings.simplefilter("ignore", ExperimentalWarning)
            database = RDBStorage(
                storage,
                engine_kwargs={"poolclass": NullPool},  # no connection outlives a query
                heartbeat_interval=_HEARTBEAT_SECONDS,
                grace_period=3 * _HEARTBEAT_SECONDS,
                heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(),
            )
        study = optuna.create_study(
            storage=database, sampler=chosen, pruner=pruner, study_name=name, direction="maximize", load_if_exists=True
        )
        if study.user_attrs.setdefault("inputs", inputs) != inputs:
            raise StartError("other-search", f"the study {name!r} searched other data or another space: use a new name")
        study.set_user_attr("inputs", inputs)
    except (SQLAlchemyError, ArgumentError, StorageInternalError, ImportError) as error:
        raise StartError("no-database", "the database of the search cannot be opened: check --storage") from error
    return study


def objective(
    data: Path, out: Path, base: TrainConfig, space: SearchSpace, console: Console, stop: Event
) -> Callable[[Trial], float]:
    """Trains one trial; its run's folder is named by its configuration, so the same trial goes on where it was.

    Raises KeyboardInterrupt after the epoch in which `stop` is set: a database is not left in the middle of a write.
    """

    def run(trial: Trial) -> float:
        config = suggest(trial, space, base)
        folder = out / "trials" / hashlib.sha256(config.model_dump_json().encode()).hexdigest()[:12]
        trial.set_user_attr("run", folder.name)
        console.print(f"trial {trial.number}: {format_parameters(trial.params)}")

        def told(epoch: int, figure: float) -> None:
            trial.report(figure, epoch)
            if stop.is_set():
                raise KeyboardInterrupt
            if trial.should_prune():
                raise optuna.TrialPruned

        try:
            best = train(data, folder, config, console=Console(quiet=True), on_epoch=told)
        except DivergedError as error:
            trial.set_user_attr("fault", str(error))
            raise optuna.TrialPruned from error
        (folder / CHECKPOINT).unlink(missing_ok=True)
        return read_checkpoint(best).best

    return run


def search(
    data: Path,
    out: Path,
    base: TrainConfig,
    space: SearchSpace,
    trials: int,
    sampler: TrialSampler = TrialSampler.TPE,
    storage: str | None = None,
    name: str = "search",
    console: Console | None = None,
    stop: Event | None = None,
) -> optuna.Study:
    """Go on until `trials` are done, by whichever machine; writes tables and pictures after each.

    Raises StartError for data, a database or a study that does not fit.
    """
    console = console or Console(stderr=True)
    out.mkdir(parents=True, exist_ok=True)
    rows = data_sha256(read_manifest(data))
    content = json.dumps([rows, space.model_dump_json(), base.model_dump_json(), sampler])
    inputs = hashlib.sha256(content.encode()).hexdigest()
    study = open_study(storage or f"sqlite:///{out / 'study.db'}", name, sampler, space, inputs, base.epochs)
    if sampler is TrialSampler.GRID:
        trials = min(trials, _grid_size(space))
    run = objective(data, out, base, space, console, stop or Event())
    failed_before = len(study.get_trials(deepcopy=False, states=(TrialState.FAIL,)))
    try:
        while (done := len(study.get_trials(deepcopy=False, states=_DONE))) < trials:
            if stop is not None and stop.is_set():
                raise KeyboardInterrupt
            study.optimize(run, n_trials=1)
            write_tables(study, out, base, space)
            best = best_trial(study)
            console.print(f"{done + 1} of {trials} trials, best {'-' if best is None else f'{best.value:.4f}'}")
    except KeyboardInterrupt:
        for one in study.get_trials(deepcopy=False, states=(TrialState.FAIL,))[failed_before:]:
            study.enqueue_trial(one.params)
        raise
    return study


def _grid_size(space: SearchSpace) -> int:
    size = len(space.network)
    for one in space.ranges().values():
        size *= len(one.grid())
    return size


def best_trial(study: optuna.Study) -> FrozenTrial | None:
    """The finished trial with the highest validation figure, None while there is none."""
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return max(done, key=lambda trial: trial.value or 0.0, default=None)


def format_parameters(params: dict[str, Any]) -> str:
    """`learning rate 0.002, …` in one line."""
    return ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else str(value) for name, value in params.items()
    )


def write_tables(study: optuna.Study, out: Path, base: TrainConfig, space: SearchSpace) -> None:
    """trials.csv, study.png and best.json; the weights of all finished trials but the best are removed."""
    names = [*space.ranges(), "network"]
    finished = [one for one in study.get_trials(deepcopy=False) if one.state.is_finished()]
    with (out / "trials.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["trial", "state", "validation_balanced_accuracy", *names, "epochs", "seconds", "run", "fault"])
        for one in finished:
            seconds = one.duration.total_seconds() if one.duration else 0.0
            value = "" if one.value is None else f"{one.value:.5f}"
            given = [one.params.get(key, "") for key in names]
            attributes = [one.user_attrs.get(key, "") for key in ("run", "fault")]
            cost = (len(one.intermediate_values), f"{seconds:.0f}")
            writer.writerow([one.number, one.state.name.lower(), value, *given, *cost, *attributes])
    best = best_trial(study)
    for one in finished:
        if one.state in _DONE and "run" in one.user_attrs and (best is None or one.number != best.number):
            for weights in (BEST, CHECKPOINT):
                (out / "trials" / one.user_attrs["run"] / weights).unlink(missing_ok=True)
    if best is not None:
        config = suggest(optuna.trial.FixedTrial(best.params), space, base)  # type: ignore[arg-type]
        (out / "best.json").write_text(config.model_dump_json(indent=2) + "\n")
        draw(finished, names, out / "study.png")


def draw(trials: list[FrozenTrial], names: list[str], path: Path) -> None:
    """The best figure over the trials, every trial's curve, and the figure against each parameter."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * 3.4, 2 * 3.2), layout="constrained")
    panels = figure.subplots(2, 4).flatten()
    done = [one for one in trials if one.state is TrialState.COMPLETE and one.value is not None]
    values = [float(one.value or 0.0) for one in done]
    numbers = [one.number for one in done]
    panels[0].plot(numbers, values, "o", color="#0072b2")
    panels[0].step(numbers, [max(values[: i + 1]) for i in range(len(values))], where="post", color="#d55e00")
    panels[0].set(xlabel="trial", ylabel="validation balanced accuracy", title="best so far")
    for one in trials:
        style = {"color": "#0072b2"} if one in done else {"color": "#999999", "ls": "--"}
        panels[1].plot(list(one.intermediate_values), list(one.intermediate_values.values()), lw=1, **style)
    panels[1].set(xlabel="epoch", title="every trial (dashed: pruned)")
    for axes, name in zip(panels[2:], names, strict=False):
        axes.plot([one.params[name] for one in done], values, "o", color="#0072b2")
        axes.set(xlabel=name)
        if name in ("learning_rate", "weight_decay", "clip_norm"):
            axes.set_xscale("log")
    for axes in panels:
        axes.grid(alpha=0.3)
    panels[-1].set_visible(False)
    figure.savefig(path, dpi=100)
