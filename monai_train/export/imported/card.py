"""The model card of an imported model: what is known of it, which is what its owner says and what was imported."""

from __future__ import annotations

import json
from collections.abc import Sequence

from monai_train.export.imported.checkpoint import Checkpoint
from monai_train.export.imported.description import Description
from monai_train.export.imported.distribution import Distribution
from monai_train.export.imported.networks import MatchedNetwork
from worker.inference.transforms.allowed import MonaiTransforms


def card(
    description: Description,
    read: Checkpoint,
    matched: MatchedNetwork | None,
    transforms: MonaiTransforms,
    shape: Sequence[int],
    series: int,
    distribution: Distribution,
) -> str:
    """docs/README.md of the bundle."""
    found = [item.finding.meaning if item.finding else "nothing found" for item in description.classes]
    rows = "\n".join(
        f"| {number} | {item.name} | {item.title} | {finding} |"
        for number, (item, finding) in enumerate(zip(description.classes, found, strict=True))
    )
    steps = "\n".join(
        f"1. {step.name} {json.dumps(dict(step.arguments)) if step.arguments else ''}".rstrip()
        for step in transforms.steps
    )
    network = matched.name if matched else "A graph whose layers are not known"
    limited = (
        "Images whose features lie beyond those of these series are out of distribution."
        if distribution.is_limited
        else "They are too few to tell which images are out of distribution: every image is answered."
    )
    return f"""# {description.name} {description.version}

{description.limits}

Imported from `{read.path.name}` ({read.kind}, SHA-256 {read.sha256}). It was trained elsewhere, and nothing was
measured here: how good it is, and for whom, its owner has to know.

### Classes
| output | class | title | finding |
|---|---|---|---|
{rows}

### Network
{network}, which reads tensors of {" x ".join(map(str, shape))}.

### Preprocessing
{steps}

### Series with which it was imported
{series}. {limited}
"""
