"""Studies of several series while processes are killed: each set of answers is answered and reported exactly once."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

from tests.faults.bed import UNFINISHED, Bed, Outcome, bed, count_instances, studies_of
from tests.faults.breakages import kill_at_random
from tests.testbed.pacs import PICTURES, REPORTS
from tests.testbed.waiting import wait_until

SERIES_OF_STUDY = 3
SETTINGS = {"report": {"level": "study"}, "study": {"quiet_seconds": 4}}
_OPEN = "SELECT count(*) FROM study WHERE state != 'answered'"
_ANSWERS = """
    SELECT study.study_instance_uid, study_result.number, study_result.input_sha256, study_result.contributions
    FROM study JOIN study_result ON study_result.study_id = study.id ORDER BY study_result.number"""


def killed_studies(folder: Path, studies: int, kills: int, seed: int = 21) -> Outcome:
    """SIGKILL of receiver, inference, sender or all at random moments, while studies arrive and are answered.

    The series of a study come from different senders, some late: a study may be answered several times, each time of
    other answers for its series.
    """
    outcome = Outcome("SIGKILL of receiver, inference, sender or all, over studies of three series", seed=seed)
    series = studies * SERIES_OF_STUDY
    pause = max(0.05, kills * 0.35 / series)
    with bed(
        folder, series, 4, 60 + 20 * kills, pause=pause, real_peers=True, settings=SETTINGS,
        series_of_study=SERIES_OF_STUDY,
    ) as site:  # fmt: skip
        kill_at_random(outcome, site.worker, kills, random.Random(seed))
        return _check(outcome, site, studies, 120 + 10 * kills)


def _check(outcome: Outcome, site: Bed, studies: int, seconds: float) -> Outcome:
    for thread in site.threads:
        thread.join(seconds)
    try:
        wait_until(
            lambda: not site.rows(UNFINISHED)[0][0] and not site.rows(_OPEN)[0][0], "every study", seconds, every=1
        )
    except TimeoutError as error:
        outcome.fault_found(str(error))
    else:
        outcome.survived = outcome.tries
    outcome.instances, outcome.series = len(site.acknowledged), studies * SERIES_OF_STUDY
    count_instances(outcome, site)
    answers = site.rows(_ANSWERS)
    numbers = Counter(study for study, *_ in answers)
    outcome.duplicated += len(answers) - len({(study, sha256) for study, _, sha256, _ in answers})
    newest = {study: json.loads(contributions) for study, _, _, contributions in answers}
    outcome.lost += studies - sum(len(contributions) == SERIES_OF_STUDY for contributions in newest.values())
    for kind in (REPORTS, PICTURES):
        _compare(outcome, Counter(studies_of(site.pacs.files(kind))), numbers)
        if site.orthanc is not None:
            found = [one for one in site.orthanc.instances() if one["SOPClassUID"] in kind]
            _compare(outcome, Counter(one["StudyInstanceUID"] for one in found), numbers)
    outcome.measured.append(f"{len(answers)} answers for {len(numbers)} studies")
    return outcome


def _compare(outcome: Outcome, arrived: Counter[str], answers: Counter[str]) -> None:
    """Of each answer for a study exactly one object is in the PACS."""
    outcome.lost += (answers - arrived).total()
    outcome.duplicated += (arrived - answers).total()
