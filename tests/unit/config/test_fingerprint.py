"""Every rule that refuses series changes the fingerprint, and nothing else does."""

from __future__ import annotations

import pytest

from worker.config import fingerprint
from worker.config.fingerprint import rules_fingerprint
from worker.config.routing import RouteSection
from worker.config.sections import EligibilitySection, ReceiveSection
from worker.config.settings import Settings


def test_rules_change_it_and_other_settings_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = rules_fingerprint(Settings())
    assert rules_fingerprint(Settings(receive=ReceiveSection(quiet_seconds=1))) == plain
    changed = [
        rules_fingerprint(Settings(eligibility=EligibilitySection(minimum_slices=2))),
        rules_fingerprint(Settings(eligibility=EligibilitySection(body_parts=("BRAIN",)))),
        rules_fingerprint(Settings(route=(RouteSection(name="a", refuse="never"),))),
    ]
    monkeypatch.setattr(fingerprint, "__version__", "99")
    assert len({plain, *changed, rules_fingerprint(Settings())}) == 5
