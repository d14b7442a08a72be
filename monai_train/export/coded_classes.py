"""The classes as in worker.json: SNOMED CT findings, and the anatomical site that a report names.

Other classes than the known ones come from a TOML file, which may also replace a known class:

    [abscess]
    title = "Brain abscess"
    neoplasm = false
    finding = {value = "441806004", scheme = "SCT", meaning = "Abscess of brain"}
    site = {value = "12738006", scheme = "SCT", meaning = "Brain"}
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from monai_train.data.labels import ANY_TUMOUR, NO_TUMOUR, Classes, class_name
from worker.errors import StartError


class Code(BaseModel):
    """A coded concept of a class."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: str = Field(min_length=1, max_length=16)  # VR SH
    scheme: str = Field(min_length=1, max_length=16)
    meaning: str = Field(min_length=1, max_length=64)  # VR LO


class Concept(BaseModel):
    """What a report says of a class."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str = Field(min_length=1, max_length=64)
    neoplasm: bool
    finding: Code | None = None
    site: Code


_CONCEPTS = TypeAdapter(dict[str, Concept])
_BRAIN = Code(value="12738006", scheme="SCT", meaning="Brain")
_PITUITARY = Code(value="56329008", scheme="SCT", meaning="Pituitary")


def _known(title: str, code: str, meaning: str, neoplasm: bool = True, site: Code = _BRAIN) -> Concept:
    return Concept(title=title, neoplasm=neoplasm, finding=Code(value=code, scheme="SCT", meaning=meaning), site=site)


_KNOWN = {
    "glioma": _known("Glioma", "393564001", "Glioma"),
    "meningioma": _known("Meningioma", "302820008", "Intracranial meningioma"),
    "pituitary": _known("Pituitary tumour", "254956000", "Pituitary adenoma", site=_PITUITARY),
    "other": _known("Other lesion", "301766008", "Lesion of brain", neoplasm=False),
    "tumor": _known("Tumour, kind not determined", "126952004", "Neoplasm of brain"),
    NO_TUMOUR: Concept(title="No tumour", neoplasm=False, finding=None, site=_BRAIN),
}


def coded_classes(
    classes: Classes, concepts: Path | None = None, *, neoplasms_only: bool = False
) -> list[dict[str, Any]]:
    """The object of each class for worker.json, in their order; `concepts` is the file that the module describes.

    `neoplasms_only`: for a bundle of format 1, whose reports name no other findings.
    Raises StartError: a file that cannot be used, a class without a concept, a finding for "no tumour" or none for
    another class, a `neoplasm` that does not fit.
    """
    given = {**_KNOWN, **(_read(concepts) if concepts else {})}
    coded = []
    for name in classes.names:
        if name not in given:
            raise StartError("no-concept", f"class {name} has no coded concept: give it in a file by --concepts")
        concept = given[name]
        if (concept.finding is None) != (name == NO_TUMOUR):
            wanted = "must not have" if concept.finding else "needs"
            raise StartError("concept-invalid", f"class {name} {wanted} a finding")
        if name == NO_TUMOUR and concept.neoplasm:
            raise StartError("concept-invalid", f"class {name} needs neoplasm = false")
        if neoplasms_only and name != NO_TUMOUR and not concept.neoplasm:
            raise StartError(
                "concept-invalid",
                f"class {name} has neoplasm = false, which a bundle that does not recognise the sequence cannot hold: "
                "set neoplasm = true in the file of --concepts, or train with sequence_loss (docs/models.md)",
            )
        coded.append({"name": name, **concept.model_dump()})
    return coded


def undetermined_class() -> dict[str, Any]:
    """The object for a lesion whose kind is not reliable ("undetermined" of format 2)."""
    return {"name": ANY_TUMOUR, **_KNOWN[ANY_TUMOUR].model_dump()}


def _read(path: Path) -> dict[str, Concept]:
    """The concepts of a file by class. Raises StartError."""
    try:
        with path.open("rb") as stream:
            tables = tomllib.load(stream)
        return {class_name(name): concept for name, concept in _CONCEPTS.validate_python(tables).items()}
    except OSError as error:
        raise StartError("concepts-unreadable", f"cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise StartError("concepts-unreadable", f"{path} is not TOML: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise StartError("concept-invalid", f"{path}: {key}: {first['msg']}") from None
