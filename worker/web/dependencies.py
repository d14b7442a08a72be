"""What pages and resources share: the site they serve, who may call them, and the parts of their addresses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import cache, cached_property
from pathlib import Path as FilePath
from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, Path, Query, Request
from fastapi.security import HTTPBearer

from worker.audit import events
from worker.audit.events import RecordEvent
from worker.config.settings import Settings
from worker.db.engine import Database
from worker.db.series import reconsider_series
from worker.db.tables import TokenRole
from worker.db.views.series_detail import find_report
from worker.decoding.pool import DecoderPool
from worker.errors import StartError
from worker.inference.bundle import verified_identity
from worker.jobs.bundle_store import BundleStore
from worker.results import ModelIdentity
from worker.storage.integrity import Integrity
from worker.web.errors import DOCUMENTED
from worker.web.filters import LARGEST_NUMBER, LARGEST_PAGE, UID_PATTERN
from worker.web.guard import Caller, require

API_PREFIX = "/api/v1"
DICOMWEB_PREFIX = "/dicom-web"

Reader = Annotated[Caller, Depends(require(TokenRole.READ))]
Annotator = Annotated[Caller, Depends(require(TokenRole.ANNOTATE))]
Operator = Annotated[Caller, Depends(require(TokenRole.OPERATE))]
BEARER = [Depends(HTTPBearer(auto_error=False, description="worker tokens add"))]  # for the OpenAPI document

NO_SUCH_SERIES = "no such series was received"
NO_SUCH_STUDY = "no series of such a study was received"
NO_SUCH_REPORT = "there is no report of this month"

RowNumber = Annotated[int, Path(ge=1, le=LARGEST_NUMBER)]
StudyUid = Annotated[str, Path(pattern=UID_PATTERN)]
SeriesUid = Annotated[str, Path(pattern=UID_PATTERN)]
BundleHash = Annotated[str, Path(pattern="^[0-9a-f]{64}$")]
BundleHashQuery = Annotated[str, Query(pattern="^[0-9a-f]{64}$")]
Month = Annotated[str, Path(pattern=r"^[12]\d{3}-(0[1-9]|1[0-2])$")]
Limit = Annotated[int, Query(ge=1, le=LARGEST_PAGE)]
After = Annotated[int, Query(ge=0, le=LARGEST_NUMBER)]


@dataclass(frozen=True, slots=True)
class Retried:
    """The numbers of the jobs or deliveries that are retried."""

    retried: tuple[int, ...]


def refuse_repeated_parameters(request: Request) -> None:
    """Answer 422 for a parameter that is given more than once: only its last value would count."""
    parameters = request.query_params
    if len(parameters.multi_items()) > len(parameters):
        raise HTTPException(422, "a parameter is given more than once")


def api_router(tag: str) -> APIRouter:
    """A router for resources below /api/v1 that the OpenAPI document lists under `tag`."""
    return APIRouter(prefix=API_PREFIX, responses=DOCUMENTED, dependencies=BEARER, tags=[tag])


@dataclass(frozen=True, slots=True)
class BundleDescription:
    """A bundle on this host as a page shows it: what it says it is, the model card (Markdown), docs/figures.json."""

    identity: ModelIdentity
    card: str
    figures: str | None

    @property
    def sha256(self) -> str:
        return self.identity.sha256

    @property
    def titles(self) -> dict[str, str]:
        """The titles of the classes, in the order of the probabilities of a slice."""
        return {model_class.name: model_class.title for model_class in self.identity.classes}


@dataclass(frozen=True)
class Site:
    """The worker that is shown: its configuration, its database, its audit trail and its clock."""

    settings: Settings
    database: Database
    record: RecordEvent
    clock: Callable[[], datetime]

    @property
    def data_dir(self) -> FilePath:
        return self.settings.worker.data_dir

    @cached_property
    def integrity(self) -> Integrity:
        """Compares stored files with their hashes before they are given out or shown."""
        return Integrity(self.database, self.data_dir, self.clock, self.record)

    @cached_property
    def decoders(self) -> DecoderPool:
        """The decoder processes; `create_app` ends them."""
        return DecoderPool(self.settings.web, self.data_dir)

    def bundles(self) -> list[BundleDescription]:
        """Every intact bundle on this host, the configured bundle first."""
        descriptions: dict[str, BundleDescription] = {}
        store = BundleStore(self.settings)
        for folder in [store.configured(), *store.copies()]:
            try:
                description = describe_bundle(folder)
            except (StartError, OSError):
                continue  # reported by the process that loads it
            descriptions.setdefault(description.sha256, description)
        return list(descriptions.values())

    def bundle(self, sha256: str | None) -> BundleDescription | None:
        """The intact bundle of a hash; None where this host has none."""
        return next((bundle for bundle in self.bundles() if bundle.sha256 == sha256), None)

    def class_titles(self) -> dict[str, str]:
        """The title of every label that a model of this host may answer: classes, and lesions of unknown kind."""
        return {label.name: label.title for bundle in self.bundles() for label in bundle.identity.labels}

    def no_lesion_labels(self) -> set[str]:
        """The labels of this host's models that mean that nothing is there."""
        return {item.name for bundle in self.bundles() for item in bundle.identity.classes if not item.is_lesion}

    def is_lesion(self, label: str | None, sha256: str | None) -> bool:
        """Whether a model's label is a lesion; False where its bundle is not on this host."""
        bundle = self.bundle(sha256) if label is not None else None
        return bundle is not None and any(item.name == label and item.is_lesion for item in bundle.identity.labels)


@cache
def describe_bundle(folder: FilePath) -> BundleDescription:
    """Verify a bundle and read what is shown of it. Raises StartError, OSError."""
    identity = verified_identity(folder)
    figures = folder / "docs" / "figures.json"
    return BundleDescription(
        identity=identity,
        card=(folder / "docs" / "README.md").read_text(encoding="utf-8"),
        figures=figures.read_text(encoding="utf-8") if figures.is_file() else None,
    )


def reconsider_refused_series(site: Site, series_instance_uid: str, caller: Caller, path: str) -> None:
    """Reopen a refused series, audited. Answers 404 for an unknown series and 409 for a series that is not refused."""
    with site.database.write() as session:
        opened = reconsider_series(session, series_instance_uid)
        is_known = opened or find_report(session, series_instance_uid) is not None
    if not is_known:
        raise HTTPException(404, NO_SUCH_SERIES)
    if not opened:
        raise HTTPException(409, "the series is not refused")
    site.record(events.operated(caller.name, caller.address, path))
