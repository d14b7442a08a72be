"""/api/v1/studies/{uid}/hand-over: send a study to another node and delete it here; how far that is."""

from __future__ import annotations

from fastapi import APIRouter, HTTPException
from pydantic import BaseModel, ConfigDict, Field

from worker.web.dependencies import Operator, StudyUid, api_router
from worker.web.errors import CONFLICT, NOT_FOUND
from worker.web.work.hand_overs import HandOvers, StudyHandOver


class ToHandOver(BaseModel):
    """Where a study goes."""

    model_config = ConfigDict(extra="forbid")

    to: str = Field(max_length=64, description="A [[destination]] by C-STORE, or the AE title of a [[peer]].")
    with_reports: bool = Field(False, description="Also send reports, pictures and key objects.")


def hand_overs_api(hand_overs: HandOvers) -> APIRouter:
    """The routes; both need a token that operates."""
    routes = api_router("studies")

    @routes.post("/studies/{study_instance_uid}/hand-over", status_code=202, responses=NOT_FOUND | CONFLICT)
    def hand_over_study(study_instance_uid: StudyUid, entry: ToHandOver, caller: Operator) -> StudyHandOver:
        """Begin to send a study to another node, which confirms every instance; only then is it deleted here.

        Ask the same address for the progress. 409 while the study is worked on or handed over, or where an image awaits
        a decision; 503 while others are handed over. After an interruption the same request completes it.
        """
        hand_overs.require(study_instance_uid, entry.to, caller)
        is_begun = hand_overs.start(study_instance_uid, entry.to, caller, with_reports=entry.with_reports)
        newest = hand_overs.of_study(study_instance_uid)
        if is_begun and newest is not None:
            return newest
        if newest is not None and newest.state == "running":
            raise HTTPException(409, "the study is being handed over")
        raise HTTPException(503, "other studies are being handed over; try again later", {"Retry-After": "5"})

    @routes.get("/studies/{study_instance_uid}/hand-over", responses=NOT_FOUND)
    def show_hand_over(study_instance_uid: StudyUid, _caller: Operator) -> StudyHandOver:
        """The latest hand-over of a study since the web process started: running, done or failed, and why."""
        newest = hand_overs.of_study(study_instance_uid)
        if newest is None:
            raise HTTPException(404, "the study was not handed over since the web process started")
        return newest

    return routes
