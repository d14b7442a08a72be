"""docs/reference-systems.md: each system's reported figures, its networks measured here, and ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from monai_train.systems.definitions import OURS, Protocol, System
from monai_train.systems.protocols import FEWEST_OF_A_FRACTION
from monai_train.systems.results import RowResult

_HEADER = (
    "Network", "Protocol", "Reported", "Accuracy (95 %)", "Macro F1", "Balanced", "Training", "n train", "n test",
    "of these known", "Pictures used", "Started from",
)  # fmt: skip
_PROTOCOLS = {
    Protocol.RANDOM_VALIDATION: "the validation is a random 20 % of the training folder's pictures",
    Protocol.AUGMENT_FIRST: "altered copies of every picture are made first, then all are split 70/15/15 % at random",
    Protocol.OFFICIAL: "the published folders Training and Testing",
    Protocol.RANDOM_TEST: "the test is 51 random pictures",
    Protocol.GROUPED: "split by patient and picture, one copy of a picture in the test: the protocol without a leak",
}


def rows_of_system(system: System) -> list[tuple[str, Protocol]]:
    """(network, protocol) of a system's rows: its own on its protocol (`also_apart`: grouped too), ours on both."""
    protocols = (system.protocol, Protocol.GROUPED) if system.also_apart else (system.protocol,)
    own = [(recipe.network, protocol) for protocol in protocols for recipe in system.network]
    return [*own, (OURS, system.protocol), (OURS, Protocol.GROUPED)]


def row_key(system: System, network: str, protocol: Protocol) -> str:
    """The name of a row's file. Ours on a task and protocol is the same row for all systems."""
    return f"{network}-{protocol}-{system.task}"


def reference_document(systems: Sequence[System], results: Mapping[str, RowResult], how: str) -> str:
    """The whole document; rows without a result are marked as not measured."""
    sections = [_head(how)]
    for system in systems:
        lines = [_table_line(_HEADER), "|" + "---|" * len(_HEADER)]
        for network, protocol in rows_of_system(system):
            lines.append(_line(system, network, protocol, results.get(row_key(system, network, protocol))))
        ensemble = results.get(f"{system.name.lower()}-ensemble")
        if ensemble is not None:
            lines.append(_line(system, ensemble.network, ensemble.protocol, ensemble))
        sections.append(f"## {system.name}: {system.title}")
        sections.append(f"Reported: {system.reported}. {_goal(system, results)}".strip())
        sections.append("\n".join(lines))
    return "\n\n".join(sections) + "\n"


def _head(how: str) -> str:
    protocols = "\n".join(f"- `{name}`: {text}" for name, text in _PROTOCOLS.items())
    return f"""# The reference systems, measured again

Written by `make seeds`; do not edit. {how}

The systems' sources are not part of this project. Their networks are implemented from their descriptions
(`monai_train/networks/baselines.py`, `monai_train/systems/*.toml`) and trained from scratch unless "Started from"
names weights, on pictures preprocessed as in the worker (head crop, one grey channel). Nothing is selected on a row's
test part: every figure is of the last epoch. Two recipes of ours on four classes were measured; the second is shown
(`ours.toml` names both). Intervals are over 2,000 resamples of patients. The learning curves and the confusion matrix
of every row are stored beside its figures in the run's folder.

Protocols:

{protocols}

**Leaky** marks a row whose test shows pictures or patients that are in its training ("of these known"): it measures
memory. "The shipped model" under "Started from" was never trained on the row's data set, but on others that share
pictures with it: these count as known too, and the `grouped` test excludes them. Compare models on the `grouped` rows.
"Pictures used" below 100 % marks a QUICK run: that fraction of each class in training and test, but at least
{FEWEST_OF_A_FRACTION} pictures of a class that has as many, and every epoch. Its figures are less certain than a full
run's, and lower."""


def _goal(system: System, results: Mapping[str, RowResult]) -> str:
    if system.goal is None:
        return ""
    goal = f"Ours must reach {100 * system.goal:.1f} % on that protocol"
    result = results.get(row_key(system, OURS, system.protocol))
    if result is None or result.accuracy is None:
        return f"{goal}: not measured."
    if result.accuracy >= system.goal:
        return f"{goal}: reached, {100 * result.accuracy:.1f} %{_extent(result)}."
    return f"{goal}: {100 * (system.goal - result.accuracy):.1f} points short{_extent(result)}."


def _extent(result: RowResult) -> str:
    return f" on {100 * result.fraction:g} % of the pictures" if result.fraction < 1 else ""


def _line(system: System, network: str, protocol: Protocol, result: RowResult | None) -> str:
    own = protocol is system.protocol and network != OURS
    reported = system.reported_by_network.get(network, system.reported if len(system.network) == 1 else "-")
    cells = [f"**{network}**" if network == OURS else network, str(protocol), reported if own else "-"]
    if result is None or result.accuracy is None:
        reason = "not measured" if result is None else str(result.fault)
        return _table_line([*cells, reason, *["-"] * (len(_HEADER) - 4)])
    if result.n_test_known or protocol is Protocol.AUGMENT_FIRST:
        cells[1] += " (**leaky**)"
    interval = f" ({100 * result.accuracy_ci[0]:.1f}-{100 * result.accuracy_ci[1]:.1f})" if result.accuracy_ci else ""
    cells += [
        f"{100 * result.accuracy:.1f} %{interval}",
        _figure(result.macro_f1, 3),
        _figure(result.balanced_accuracy, 3),
        _figure(result.training_accuracy, 3),
        str(result.n_train),
        f"{result.n_test} ({result.patients_test} patients)",
        str(result.n_test_known),
        f"{100 * result.fraction:g} %",
        result.weights or "-",
    ]
    return _table_line(cells)


def _table_line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _figure(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
