"""The fingerprint of the rules that refuse series: a refusal holds only as long as they are the same."""

from __future__ import annotations

import hashlib
import json

from worker import __version__
from worker.config.settings import Settings


def rules_fingerprint(settings: Settings) -> str:
    """SHA-256 over [eligibility], every [[route]] and the worker's version, which may read rules differently."""
    rules = {
        "version": __version__,
        "eligibility": settings.eligibility.model_dump(mode="json"),
        "route": [route.model_dump(mode="json") for route in settings.route],
    }
    return hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()
