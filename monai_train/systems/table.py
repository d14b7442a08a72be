"""docs/reference-systems.md: every system's reported figure, its networks ours, and ours with patients apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from monai_train.systems.definitions import OURS, Protocol, System
from monai_train.systems.protocols import FEWEST_OF_A_FRACTION
from monai_train.systems.results import Result

_HEADER = (
    "Network", "Protocol", "Reported", "Accuracy (95 %)", "Macro F1", "Balanced", "Training", "n train", "n test",
    "of these known", "Pictures used", "Started from",
)  # fmt: skip
_PROTOCOLS = {
    Protocol.RANDOM_VALIDATION: "a random 20 % of the training folder's pictures is the validation",
    Protocol.AUGMENT_FIRST: "altered copies are made of every picture, then 70/15/15 % of all at random",
    Protocol.OFFICIAL: "the published folders Training and Testing",
    Protocol.RANDOM_TEST: "51 pictures at random are the test",
    Protocol.GROUPED: "patients and pictures apart, one copy of a picture in the test: the honest one",
}


def rows_of_system(system: System) -> list[tuple[str, Protocol]]:
    """(network, protocol) of a system's rows: its own on its protocol (and apart, where asked), then ours on both."""
    protocols = (system.protocol, Protocol.GROUPED) if system.also_apart else (system.protocol,)
    own = [(one.network, protocol) for protocol in protocols for one in system.network]
    return [*own, (OURS, system.protocol), (OURS, Protocol.GROUPED)]


def row_key(system: System, network: str, protocol: Protocol) -> str:
    """The name of a row's file. Ours on one task and protocol is one row for all systems."""
    return f"{network}-{protocol}-{system.task}"


def document(systems: Sequence[System], results: Mapping[str, Result], how: str) -> str:
    """The whole document; rows that were not measured say so."""
    parts = [_head(how)]
    for system in systems:
        lines = ["| " + " | ".join(_HEADER) + " |", "|" + "---|" * len(_HEADER)]
        for network, protocol in rows_of_system(system):
            lines.append(_line(system, network, protocol, results.get(row_key(system, network, protocol))))
        together = results.get(f"{system.name.lower()}-ensemble")
        if together is not None:
            lines.append(_line(system, together.network, together.protocol, together))
        parts += [f"## {system.name}: {system.title}", f"Reported: {system.reported}. {_goal(system, results)}".strip()]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _head(how: str) -> str:
    protocols = "\n".join(f"- `{name}`: {text}" for name, text in _PROTOCOLS.items())
    return f"""# The reference systems, measured again

Written by `make seeds`; do not edit. {how}

The systems' sources are not part of this project. Their networks here are plain readings of their descriptions
(`monai_train/networks/baselines.py`, `monai_train/systems/*.toml`), trained from scratch unless "Started from" says
otherwise, with pictures as the worker prepares them (head crop, one grey channel). Within a row nothing is chosen on
its test part: every figure is of the last epoch. Of two recipes of ours on four classes that were measured, the second
is shown (`ours.toml` names both). Intervals are over 2,000 resamples of patients. Learning curves and the confusion
matrix of every row are kept beside its figures in the run's folder.

Protocols:

{protocols}

**Leaky** marks a row whose test shows pictures or patients that are in its training ("of these known"): it measures
memory. "The shipped model" under "Started from" never trained on the row's data set, but on others that share pictures
with it: these count as known too, and are left out of the `grouped` test. Compare models on the `grouped` rows.
"Pictures used" below 100 % marks a QUICK run: that share of each class in training and test, but
{FEWEST_OF_A_FRACTION} pictures of a class where there are as many, and every epoch. Its figures say less than a full
run's, and are lower."""


def _goal(system: System, results: Mapping[str, Result]) -> str:
    if system.goal is None:
        return ""
    wanted = f"Ours must reach {100 * system.goal:.1f} % on that protocol"
    found = results.get(row_key(system, OURS, system.protocol))
    if found is None or found.accuracy is None:
        return f"{wanted}: not measured."
    if found.accuracy >= system.goal:
        return f"{wanted}: reached, {100 * found.accuracy:.1f} %{_extent(found)}."
    return f"{wanted}: {100 * (system.goal - found.accuracy):.1f} points short{_extent(found)}."


def _extent(result: Result) -> str:
    return f" on {100 * result.fraction:g} % of the pictures" if result.fraction < 1 else ""


def _line(system: System, network: str, protocol: Protocol, result: Result | None) -> str:
    own = protocol is system.protocol and network != OURS
    reported = system.reported_by_network.get(network, system.reported if len(system.network) == 1 else "-")
    shown = [f"**{network}**" if network == OURS else network, str(protocol), reported if own else "-"]
    if result is None or result.accuracy is None:
        why = "not measured" if result is None else str(result.fault)
        return "| " + " | ".join([*shown, why, *["-"] * (len(_HEADER) - 4)]) + " |"
    if result.n_test_known or protocol is Protocol.AUGMENT_FIRST:
        shown[1] += " (**leaky**)"
    low, high = result.accuracy_ci or (float("nan"), float("nan"))
    shown += [
        f"{100 * result.accuracy:.1f} % ({100 * low:.1f}-{100 * high:.1f})",
        _figure(result.macro_f1, 3),
        _figure(result.balanced_accuracy, 3),
        _figure(result.training_accuracy, 3),
        str(result.n_train),
        f"{result.n_test} ({result.patients_test} patients)",
        str(result.n_test_known),
        f"{100 * result.fraction:g} %",
        result.weights or "-",
    ]
    return "| " + " | ".join(shown) + " |"


def _figure(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
