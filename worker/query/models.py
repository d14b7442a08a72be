"""Models as people look at them: their states, and where they could not be loaded."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.orm import Session

from worker import store_models
from worker.tables import LoadState


@dataclass(frozen=True, slots=True)
class KnownModel:
    """`sha256` is the hash of its bundle; `not_loaded` names each host that could not load it, with the reason."""

    name: str
    version: str
    state: str
    state_at: datetime
    state_by: str
    added_at: datetime
    sha256: str
    not_loaded: str | None


def known_models(session: Session) -> list[KnownModel]:
    """Newest first."""
    faults = load_faults(session)
    return [
        KnownModel(
            name=one.name,
            version=one.version,
            state=one.state,
            state_at=one.state_at,
            state_by=one.state_by,
            added_at=one.added_at,
            sha256=one.sha256,
            not_loaded=faults.get(one.sha256),
        )
        for one in store_models.models(session)
    ]


def load_faults(session: Session) -> dict[str, str]:
    """Bundle hash → the hosts that could not load it, with the reasons; of the models that are in use."""
    faults: dict[str, str] = {}
    for model, load in store_models.loads(session):
        if load.state == LoadState.FAILED:
            said = f"{load.host}: {load.detail}"
            faults[model.sha256] = f"{faults[model.sha256]}; {said}" if model.sha256 in faults else said
    return faults
