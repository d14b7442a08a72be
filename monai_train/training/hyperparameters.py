"""`monai-train search`: Optuna over learning rate, weight decay, clipping, strength of augmentation and network.

A trial is a `train` run on the training patients; its figure is the balanced accuracy on the validation patients, so
that the test patients stay unseen. The study is stored in a database: SQLite beside the runs, or a PostgreSQL database
of its own for several machines that search together. An interrupted search resumes, and the interrupted trial resumes
from its last epoch.

OUT/study.db                 the study (unless --storage names another database)
OUT/trials/<hash>/           the run of each trial
OUT/trials.csv, study.png    every trial, and the charts of the study
OUT/best.json                the best configuration, for `train --config`
"""

from __future__ import annotations

import csv
import hashlib
import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event, Lock
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
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
from worker.cluster import Cluster, Lost
from worker.errors import StartError

_HEARTBEAT_SECONDS = 10
_DONE = (TrialState.COMPLETE, TrialState.PRUNED)


class SearchRange(BaseModel):
    """Numbers from `low` to `high`; the grid has `points` of them, evenly spaced, on a logarithmic scale if `log`."""

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
        """The values on the grid."""
        if self.points == 1 or self.low == self.high:
            return [self.low]
        inner = [i / (self.points - 1) for i in range(1, self.points - 1)]
        if self.log:
            return [self.low, *(self.low * (self.high / self.low) ** share for share in inner), self.high]
        return [self.low, *(self.low + (self.high - self.low) * share for share in inner), self.high]


class SearchSpace(BaseModel):
    """The search space. `augmentation` multiplies every probability and range of the base configuration."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    learning_rate: SearchRange = SearchRange(low=3e-4, high=6e-3, log=True, points=3)
    weight_decay: SearchRange = SearchRange(low=1e-3, high=0.2, log=True)
    clip_norm: SearchRange = SearchRange(low=0.3, high=5, log=True)
    augmentation: SearchRange = SearchRange(low=0.3, high=1.5)
    network: tuple[str, ...] = Field(("resnet18-slim", "resnet18"), min_length=1)

    def ranges(self) -> dict[str, SearchRange]:
        """The numeric parameters by name."""
        return {name: value for name, value in self if isinstance(value, SearchRange)}


def read_space(path: Path | None) -> SearchSpace:
    """Read the space from a JSON file, or the default. Raises StartError with the key of an invalid value."""
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
    """Multiply every probability and range by `strength`, up to the maximum of each."""
    maximum = {"rotate_degrees": 180.0, "scale": 0.9, "shift": 0.9, "gamma": 4.0, "bias_field": 4.0, "noise": 4.0}
    values = {name: min(maximum.get(name, 1.0), value * strength) for name, value in augmentation}
    return Augmentation.model_validate(values)


def suggest(trial: Trial, space: SearchSpace, base: TrainConfig) -> TrainConfig:
    """The configuration of a trial."""
    drawn = {name: trial.suggest_float(name, r.low, r.high, log=r.log) for name, r in space.ranges().items()}
    strength = drawn.pop("augmentation")
    network = trial.suggest_categorical("network", space.network)
    changes = {**drawn, "network": network, "augmentation": scaled(base.augmentation, strength)}
    return TrainConfig.model_validate({**base.model_dump(), **changes})


class SeededByTrial(TPESampler):
    """Draws each parameter by a seed of its own, from the trial's number and the parameter's name.

    A sampler with one seed would draw the first trial's values again after a restart, and on every other machine.
    """

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        digest = hashlib.sha256(f"{trial.number} {param_name}".encode()).digest()
        own = TPESampler(seed=int.from_bytes(digest[:4], "big"))
        return own.sample_independent(study, trial, param_name, param_distribution)


def open_study(
    storage: str, name: str, sampler: TrialSampler, space: SearchSpace, inputs: str, epochs: int
) -> optuna.Study:
    """Open the study of that name, or create it; unfinished trials of processes that died are retried.

    Raises StartError for a database that cannot be used and for a study of other data, space or configuration.
    """
    grid: dict[str, Any] = {key: values.grid() for key, values in space.ranges().items()} | {
        "network": list(space.network)
    }
    chosen: BaseSampler = GridSampler(grid, seed=7) if sampler is TrialSampler.GRID else SeededByTrial()
    pruner = optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=max(1, epochs // 4))
    try:
        with warnings.catch_warnings():
            # The heartbeat by which Optuna detects a machine that died; experimental since 2021.
            warnings.simplefilter("ignore", ExperimentalWarning)
            database = RDBStorage(
                storage,
                engine_kwargs={"poolclass": NullPool},  # close connections after each query
                heartbeat_interval=_HEARTBEAT_SECONDS,
                grace_period=3 * _HEARTBEAT_SECONDS,
                heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(),
            )
        study = optuna.create_study(
            storage=database, sampler=chosen, pruner=pruner, study_name=name, direction="maximize", load_if_exists=True
        )
        if study.user_attrs.setdefault("inputs", inputs) != inputs:
            raise StartError(
                "other-search", f"the study {name!r} searched other data or another space: use a new --name"
            )
        study.set_user_attr("inputs", inputs)
    except (SQLAlchemyError, ArgumentError, StorageInternalError, ImportError) as error:
        raise StartError("no-database", "cannot open the database of the search: check --storage") from error
    return study


def objective(
    data: Path, out: Path, base: TrainConfig, space: SearchSpace, console: Console, stop: Event
) -> Callable[[Trial], float]:
    """Make the objective, which trains a trial; its folder is named by its configuration, so that a trial can resume.

    It raises KeyboardInterrupt after the epoch in which `stop` is set, so that no database write is interrupted.
    """

    def run(trial: Trial) -> float:
        config = suggest(trial, space, base)
        folder = out / "trials" / hashlib.sha256(config.model_dump_json().encode()).hexdigest()[:12]
        trial.set_user_attr("run", folder.name)
        console.print(f"trial {trial.number}: {format_parameters(trial.params)}")

        def report(epoch: int, figure: float) -> None:
            trial.report(figure, epoch)
            if stop.is_set():
                raise KeyboardInterrupt
            if trial.should_prune():
                raise optuna.TrialPruned

        try:
            best = train(data, folder, config, console=Console(quiet=True), on_epoch=report)
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
    cluster: Cluster | None = None,
) -> optuna.Study:
    """Run trials until `trials` are finished, on all machines together; writes tables and charts after each.

    On a `cluster`, whose workers see DATA and OUT at the same paths and reach the database, a trial is a task.
    Raises StartError for data, a database or a study that does not fit.
    """
    console = console or Console(stderr=True)
    out.mkdir(parents=True, exist_ok=True)
    data_hash = data_sha256(read_manifest(data))
    content = json.dumps([data_hash, space.model_dump_json(), base.model_dump_json(), sampler])
    inputs = hashlib.sha256(content.encode()).hexdigest()
    storage = storage or f"sqlite:///{out.absolute() / 'study.db'}"
    study = open_study(storage, name, sampler, space, inputs, base.epochs)
    if sampler is TrialSampler.GRID:
        trials = min(trials, _grid_size(space))
    stop = stop or Event()
    run = objective(data, out, base, space, console, stop)
    if cluster is not None:
        task = TrialTask(data.absolute(), out.absolute(), base, space, sampler, storage, name, inputs)
        run = _on_cluster(cluster, task, console, stop)
    failed_before = len(study.get_trials(deepcopy=False, states=(TrialState.FAIL,)))
    one_at_a_time = Lock()

    def tell(study: optuna.Study, _trial: FrozenTrial) -> None:
        with one_at_a_time:
            write_tables(study, out, base, space)
            best = best_trial(study)
            done = len(study.get_trials(deepcopy=False, states=_DONE))
            console.print(f"{done} of {trials} trials, best {'-' if best is None else f'{best.value:.4f}'}")

    try:
        while (done := len(study.get_trials(deepcopy=False, states=_DONE))) < trials:
            if stop.is_set():
                raise KeyboardInterrupt
            if cluster is None:
                study.optimize(run, n_trials=1, callbacks=[tell])
            else:
                jobs = min(trials - done, max(1, cluster.threads))
                study.optimize(run, n_trials=trials - done, n_jobs=jobs, callbacks=[tell])
    except KeyboardInterrupt:
        for trial in study.get_trials(deepcopy=False, states=(TrialState.FAIL,))[failed_before:]:
            study.enqueue_trial(trial.params)
        raise
    return study


@dataclass(frozen=True, slots=True)
class TrialTask:
    """A trial of a study, as a Dask worker gets it; paths are absolute. `storage` may hold a password."""

    data: Path
    out: Path
    base: TrainConfig
    space: SearchSpace
    sampler: TrialSampler
    storage: str = field(repr=False)
    name: str
    inputs: str
    trial_id: int = -1


@dataclass(frozen=True, slots=True)
class Trained:
    """The figure of a trial; None where it was pruned."""

    figure: float | None


def run_trial(task: TrialTask) -> Trained | Lost:
    """Train a trial of the study, which somebody else asked for and will tell the figure of."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = open_study(task.storage, task.name, task.sampler, task.space, task.inputs, task.base.epochs)
        run = objective(task.data, task.out, task.base, task.space, Console(quiet=True), Event())
        return Trained(run(Trial(study, task.trial_id)))
    except optuna.TrialPruned:
        return Trained(None)
    except StartError as error:
        return Lost(error.reason, error.detail)
    except Exception as error:  # a task's boundary: the search ends, and says why
        return Lost("training-fault", f"{type(error).__name__} in a trial")


def _on_cluster(cluster: Cluster, task: TrialTask, console: Console, stop: Event) -> Callable[[Trial], float]:
    """Make the objective that has a Dask worker train a trial, and waits for it in a thread of this process."""

    def run(trial: Trial) -> float:
        suggest(trial, task.space, task.base)  # here, so that a single sampler draws all trials
        console.print(f"trial {trial.number}: {format_parameters(trial.params)}")
        own = replace(task, trial_id=trial._trial_id)
        [(_, answer)] = cluster.run(run_trial, [own], attempts=3, stop=stop)
        if isinstance(answer, Lost):
            raise StartError(answer.reason, f"trial {trial.number}: {answer.detail}")
        if answer.figure is None:
            raise optuna.TrialPruned
        return answer.figure

    return run


def _grid_size(space: SearchSpace) -> int:
    size = len(space.network)
    for values in space.ranges().values():
        size *= len(values.grid())
    return size


def best_trial(study: optuna.Study) -> FrozenTrial | None:
    """The finished trial with the highest validation figure, None if no trial has finished."""
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return max(done, key=lambda trial: trial.value or 0.0, default=None)


def format_parameters(params: dict[str, Any]) -> str:
    """`learning rate 0.002, …` in one line."""
    return ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else str(value) for name, value in params.items()
    )


def write_tables(study: optuna.Study, out: Path, base: TrainConfig, space: SearchSpace) -> None:
    """Write trials.csv, study.png and best.json; remove the weights of all finished trials except the best."""
    names = [*space.ranges(), "network"]
    finished = [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]
    with (out / "trials.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["trial", "state", "validation_balanced_accuracy", *names, "epochs", "seconds", "run", "fault"])
        for trial in finished:
            seconds = trial.duration.total_seconds() if trial.duration else 0.0
            value = "" if trial.value is None else f"{trial.value:.5f}"
            parameters = [trial.params.get(key, "") for key in names]
            attributes = [trial.user_attrs.get(key, "") for key in ("run", "fault")]
            cost = (len(trial.intermediate_values), f"{seconds:.0f}")
            writer.writerow([trial.number, trial.state.name.lower(), value, *parameters, *cost, *attributes])
    best = best_trial(study)
    for trial in finished:
        if trial.state in _DONE and "run" in trial.user_attrs and (best is None or trial.number != best.number):
            for weights in (BEST, CHECKPOINT):
                (out / "trials" / trial.user_attrs["run"] / weights).unlink(missing_ok=True)
    if best is not None:
        config = suggest(optuna.trial.FixedTrial(best.params), space, base)  # type: ignore[arg-type]
        (out / "best.json").write_text(config.model_dump_json(indent=2) + "\n")
        draw(finished, names, out / "study.png")


def draw(trials: list[FrozenTrial], names: list[str], path: Path) -> None:
    """Plot the best figure over the trials, every trial's curve, and the figure against each parameter."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * 3.4, 2 * 3.2), layout="constrained")
    panels = figure.subplots(2, 4).flatten()
    done = [trial for trial in trials if trial.state is TrialState.COMPLETE and trial.value is not None]
    values = [float(trial.value or 0.0) for trial in done]
    numbers = [trial.number for trial in done]
    panels[0].plot(numbers, values, "o", color="#0072b2")
    panels[0].step(numbers, [max(values[: i + 1]) for i in range(len(values))], where="post", color="#d55e00")
    panels[0].set(xlabel="trial", ylabel="validation balanced accuracy", title="best so far")
    for trial in trials:
        style = {"color": "#0072b2"} if trial in done else {"color": "#999999", "ls": "--"}
        panels[1].plot(list(trial.intermediate_values), list(trial.intermediate_values.values()), lw=1, **style)
    panels[1].set(xlabel="epoch", title="every trial (dashed: pruned)")
    for axes, name in zip(panels[2:], names, strict=False):
        axes.plot([trial.params[name] for trial in done], values, "o", color="#0072b2")
        axes.set(xlabel=name)
        if name in ("learning_rate", "weight_decay", "clip_norm"):
            axes.set_xscale("log")
    for axes in panels:
        axes.grid(alpha=0.3)
    panels[-1].set_visible(False)
    figure.savefig(path, dpi=100)
