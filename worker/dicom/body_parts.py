"""Body parts: which terms of Body Part Examined show the brain, and which part codes and free text name.

Terms are compared without spaces, hyphens and case: senders write HEAD_NECK and "Head and Neck" (PS3.16 Annex L).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from worker.dicom.series_terms import plain_words, whole_words

# Of PS3.16 Table L-1, as spelled there: the head and what lies within the skull, each with its SNOMED CT code and that
# of SNOMED RT, which older devices write. The face, the jaw and their parts are not among them: the brain is not
# examined there.
_CODES_OF_TERMS = {
    "3RDVENTRICLE": ("49841001", "T-A1740"), "4THVENTRICLE": ("35918002", "T-A1820"), "ACA": ("60176003", "T-45540"),
    "ANTCOMMA": ("8012006", "T-45530"), "BASILARA": ("59011009", "T-45800"), "BRAIN": ("12738006", "T-A0100"),
    "CEREBELLUM": ("113305005", "T-A6000"), "CEREBHEMISPHERE": ("372073000", "T-A010F"),
    "CEREBRALA": ("88556005", "T-45510"), "CHOROIDPLEXUS": ("80621003", "T-A1900"),
    "CIRCLEOFWILLIS": ("11279006", "T-45520"), "EAC": ("84301002", "T-AB200"), "EAR": ("117590005", "T-AB001"),
    "EYE": ("81745001", "T-AA000"), "FONTANEL": ("79361005", "T-15200"), "HEAD": ("69536005", "T-D1100"),
    "HEADNECK": ("774007", "T-D1000"), "IAC": ("361078006", "T-AB959"), "INTRACRANIAL": ("1101003", "T-D1400"),
    "LATVENTRICLE": ("66720007", "T-A1650"), "MASTOID": ("59066005", "T-11133"), "MCA": ("17232002", "T-45600"),
    "OPHTHALMICA": ("53549008", "T-45400"), "OPTICCANAL": ("55024004", "T-11102"),
    "ORBIT": ("363654007", "T-D14AE", "T-D1480"), "PCA": ("70382005", "T-45900"), "POSCOMMA": ("43119007", "T-45320"),
    "SCALP": ("41695006", "T-D1160"), "SELLA": ("42575006", "T-D1460"), "SKULL": ("89546000", "T-11100"),
    "THALAMUS": ("42695009", "T-A4000"),
}  # fmt: skip
_CODES = {code: term for term, codes in _CODES_OF_TERMS.items() for code in codes}
# What senders write of the same besides.
BRAIN_TERMS = (
    *_CODES_OF_TERMS,
    "HEADANDNECK", "NEURO", "CRANIUM", "CEREBRUM", "BRAINSTEM", "MIDBRAIN", "PONS", "MEDULLA", "MEDULLAOBLONGATA",
    "FRONTALLOBE", "PARIETALLOBE", "TEMPORALLOBE", "OCCIPITALLOBE", "HIPPOCAMPUS", "AMYGDALA", "INSULA",
    "BASALGANGLIA", "HYPOTHALAMUS", "CORPUSCALLOSUM", "PINEAL", "LATERALVENTRICLE", "THIRDVENTRICLE",
    "FOURTHVENTRICLE", "MENINGES", "DURAMATER", "PITUITARY", "PITUITARYGLAND", "PITUITARYFOSSA", "SELLATURCICA",
    "INNEREAR", "TEMPORALBONE", "POSTERIORFOSSA", "POSTFOSSA", "CEREBELLOPONTINEANGLE", "OPTICNERVE",
)  # fmt: skip
# Examined in one study with the head, so that a study of these may hold a series of the brain.
NEIGHBOURS = frozenset({"NECK", "SPINE"})

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
    "HAND": r"hand|hands|hande|mano|mao|mains|main (?:droite|gauche)|finger|fingers|doigts?|dedos?|thumb|daumen|pouce",
    "ELBOW": r"elbow|ellbogen|ellenbogen|coude|codo|cotovelo|gomito",
    "WHOLEBODY": r"whole ?body|ganzkorper\w*|ganzkoerper\w*|corps entier|cuerpo (?:entero|completo)|corpo inteiro",
    "SHOULDER": r"brachial plexus|plexus brachial\w*|shoulder|schulter|epaule|hombro|ombro|spalla",
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
_OF_A_JOINT = re.compile(
    r"(?<= )(?:humeral|femoral|radial|fibular|metatarsal|tete (?:femorale|humerale)) ?(?:heads?)?(?= )"
)
# What a coil is named after; a coil for the body or the spine is used for every part.
_BY_COIL = frozenset({"HEAD", "BRAIN", "KNEE", "WRIST", "HAND", "ELBOW", "SHOULDER", "ANKLE", "FOOT", "BREAST"})

_BRAIN = frozenset(BRAIN_TERMS)


def shows_brain(parts: Iterable[str]) -> bool:
    """Whether any of these terms is of the head, or of what lies in it."""
    return any(normal_term(part) in _BRAIN or names_head(part) for part in parts)


def names_head(value: str) -> bool:
    """Whether a value of Body Part Examined that is no term names the head in words, as KOPF or "BRAIN W/O" do."""
    named = parts_in_text(value) if normal_term(value) not in _BRAIN else ()
    return bool(named) and _BRAIN.issuperset(named)


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
    return tuple(term for term, names in _WORDS.items() if whole_words(names).search(words))


def parts_of_coil(name: str) -> tuple[str, ...]:
    """The body parts for which a receive coil of this name is made."""
    return tuple(part for part in parts_in_text(name) if part in _BY_COIL)
