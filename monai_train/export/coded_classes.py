"""The classes as in worker.json: SNOMED CT findings, and the anatomical site that a report names."""

from __future__ import annotations

from typing import Any

_BRAIN = {"value": "12738006", "scheme": "SCT", "meaning": "Brain"}
_PITUITARY = {"value": "56329008", "scheme": "SCT", "meaning": "Pituitary"}
CLASSES: list[dict[str, Any]] = [
    {
        "name": "glioma",
        "title": "Glioma",
        "neoplasm": True,
        "finding": {"value": "393564001", "scheme": "SCT", "meaning": "Glioma"},
        "site": _BRAIN,
    },
    {
        "name": "meningioma",
        "title": "Meningioma",
        "neoplasm": True,
        "finding": {"value": "302820008", "scheme": "SCT", "meaning": "Intracranial meningioma"},
        "site": _BRAIN,
    },
    {
        "name": "pituitary",
        "title": "Pituitary tumour",
        "neoplasm": True,
        "finding": {"value": "254956000", "scheme": "SCT", "meaning": "Pituitary adenoma"},
        "site": _PITUITARY,
    },
    {"name": "notumor", "title": "No tumour", "neoplasm": False, "finding": None, "site": _BRAIN},
]
