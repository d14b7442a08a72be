"""Body parts: which terms of Body Part Examined show the brain, and which part codes and free text name.

Terms are compared without spaces, hyphens and case: senders write HEAD_NECK and "Head and Neck" (PS3.16 Annex L).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from worker.dicom.series_terms import plain_words

# The terms of PS3.16 Table L-1 for the head and for what lies in it, with common spellings of the same.
BRAIN_TERMS = (
    "BRAIN", "HEAD", "SKULL", "HEADNECK", "HEADANDNECK", "INTRACRANIAL", "NEURO", "CRANIUM",
    "CEREBELLUM", "CEREBHEMISPHERE", "CEREBRUM", "BRAINSTEM", "MIDBRAIN", "PONS", "MEDULLA", "MEDULLAOBLONGATA",
    "FRONTALLOBE", "PARIETALLOBE", "TEMPORALLOBE", "OCCIPITALLOBE", "HIPPOCAMPUS", "AMYGDALA", "INSULA",
    "BASALGANGLIA", "THALAMUS", "HYPOTHALAMUS", "CORPUSCALLOSUM", "PINEAL", "LATVENTRICLE", "THIRDVENTRICLE",
    "FOURTHVENTRICLE", "CHOROIDPLEXUS", "MENINGES", "DURAMATER", "CIRCLEOFWILLIS", "CEREBRALA",
    "PITUITARY", "PITUITARYGLAND", "PITUITARYFOSSA", "SELLA", "SELLATURCICA", "IAC", "INNEREAR", "EAR", "TEMPORALBONE",
    "POSTERIORFOSSA", "POSTFOSSA", "CEREBELLOPONTINEANGLE", "ORBIT", "EYE", "OPTICCANAL", "OPTICNERVE", "SCALP",
)  # fmt: skip
# Examined in one study with the head, so that a study of these may hold a series of the brain.
NEIGHBOURS = frozenset({"NECK", "SPINE"})

# Code values of regions (PS3.16 CID 4 and Annex L): SNOMED CT, and SNOMED RT of older devices.
_CODES = {
    "12738006": "BRAIN", "T-A0100": "BRAIN", "69536005": "HEAD", "T-D1100": "HEAD", "774007": "HEADNECK",
    "T-D1000": "HEADNECK", "89546000": "SKULL", "T-11100": "SKULL", "1101003": "INTRACRANIAL",
    "T-D1400": "INTRACRANIAL",     "113305005": "CEREBELLUM", "T-A6000": "CEREBELLUM", "363654007": "ORBIT",
    "T-D1480": "ORBIT",
    "42575006": "SELLA", "T-D1460": "SELLA", "361078006": "IAC", "T-AB959": "IAC",
}  # fmt: skip

# Words in English, German, French, Spanish, Portuguese and Italian, without accents, by the term that they stand for.
_WORDS = {
    "HEAD": r"head|heads|skull|kopf|schadel|schaedel|neurocranium|neurocranio|tete|crane|cranien|cranial|cranio|craneo"
            r"|cranium|cabeza|cabeca|testa|hn|hnc|headneck|head ?neck|neuro",
    "BRAIN": r"\w*brain\w*|cerebr\w*|cereb\w*|cerveau|encephal\w*|encefal\w*|hirn\w*|gehirn|cervello|cervelet"
             r"|kleinhirn",
    "PITUITARY": r"pituitary|hypophys\w*|hipofis\w*|ipofis\w*|sella|selle|sellar|turcica|turcique",
    "ORBIT": r"orbit|orbits|orbita|orbitas|orbite|orbites|orbitae",
    "IAC": r"iac|iacs|iam|iams|cai|felsenbein\w*|rochers?|khbw",
    "POSTFOSSA": r"post(?:erior)? fossa|fosse posterieure|fosa posterior|fossa posteriore?|hintere schadelgrube",
    "KNEE": r"knee|knees|knie|genou|genoux|rodilla|rodillas|joelho|joelhos|ginocchio",
    "WRIST": r"wrist|wrists|handgelenk|poignet|muneca|punho|polso",
    "HAND": r"hand|hands|hande|mano|mao|mains|main (?:droite|gauche)|finger|fingers|thumb|daumen|pouce",
    "ELBOW": r"elbow|ellbogen|ellenbogen|coude|codo|cotovelo|gomito",
    "SHOULDER": r"shoulder|schulter|epaule|hombro|ombro|spalla",
    "HIP": r"hip|hips|hufte|huefte|hanche|hanches|cadera|quadril|anca|femoral head|femur|oberschenkel|thigh|cuisse",
    "ANKLE": r"ankle|ankles|sprunggelenk|osg|cheville|tobillo|tornozelo|caviglia",
    "FOOT": r"foot|feet|fuss|vorfuss|forefoot|pied|pieds|piede|heel|toe|toes",
    "LEG": r"calf|tibia|fibula|unterschenkel|jambe|pierna|perna|gamba|membre inf\w*|lower (?:leg|limb|extremity)",
    "ARM": r"humerus|humeral|forearm|oberarm|unterarm|avant bras|antebrazo|upper (?:arm|limb|extremity)",
    "SPINE": r"[ctl]?spine|[ctl] spine|spinal|hws|bws|lws|wirbelsaule|wirbelsaeule|rachis|rachide|columna"
             r"|coluna|colonna"
             r"|lumbar|lumbal|lombaire|lombare|lumbosacral|thoracolumbar|sacrum|isg|cervicale?s?|dorsal|vertebra\w*",
    "NECK": r"neck|hals|cou|cuello|pescoco|collo|larynx|thyroid|carotids?|nasopharynx",
    "JAW": r"tmj|atm|kiefergelenk|mandible|maxilla|jaw|kiefer",
    "CHEST": r"chest|thorax|torax|thoracic|lung|lungs|lunge|poumon|pulmon|mediastin\w*",
    "HEART": r"heart|cardiac|herz|kardio|coeur|coeurs|cardiaque|corazon|cardiac[ao]|cuore|coracao|myocard\w*",
    "BREAST": r"breast|breasts|mamma|mammae|mamas|sein|seins|brust|seno|mammo\w*",
    "ABDOMEN": r"abdomen|abdominal|abdominale?|abdo|oberbauch|bauch|liver|leber|foie|higado|figado|fegato|mrcp|kidneys?"
               r"|renal|niere|nieren|pancreas|pankreas|enterograph\w*|adrenals?|spleen",
    "PELVIS": r"pelvis|pelvic|becken|bassin|pelvien|pelvico|prostat\w*|uterus|rectum|rektum|bladder|scrotum",
    "PHANTOM": r"phantom|phantoms|phantome|fantom\w*|fantoma|fantasma",
}  # fmt: skip
_PATTERNS = {term: re.compile(f"(?<= )(?:{words})(?= )") for term, words in _WORDS.items()}
_OF_A_JOINT = re.compile(
    r"(?<= )(?:humeral|femoral|radial|fibular|metatarsal|tete (?:femorale|humerale)) ?(?:heads?)?(?= )"
)
# What a coil is named after; a coil for the body or the spine is used for every part.
_BY_COIL = frozenset({"HEAD", "BRAIN", "KNEE", "WRIST", "HAND", "ELBOW", "SHOULDER", "ANKLE", "FOOT", "BREAST"})


_BRAIN = frozenset(BRAIN_TERMS)


def shows_brain(parts: Iterable[str]) -> bool:
    """Whether any of these terms is of the head, or of what lies in it."""
    return any(normal_term(part) in _BRAIN for part in parts)


def normal_term(text: str) -> str:
    """A term without spaces, hyphens, underscores and case."""
    return re.sub(r"[^A-Z0-9]", "", text.upper())


def part_of_code(value: str, meaning: str) -> str:
    """The term of a coded region; of an unknown code, its meaning."""
    named = parts_in_text(meaning)
    return _CODES.get(value.strip().upper()) or (named[0] if named else normal_term(meaning))[:64]


@lru_cache(maxsize=4096)
def parts_in_text(text: str) -> tuple[str, ...]:
    """The body parts that free text names."""
    words = _OF_A_JOINT.sub("hip", plain_words(text))
    return tuple(term for term, pattern in _PATTERNS.items() if pattern.search(words))


def parts_of_coil(name: str) -> tuple[str, ...]:
    """The body parts for which a receive coil of this name is made."""
    return tuple(part for part in parts_in_text(name) if part in _BY_COIL)
