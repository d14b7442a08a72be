"""The table of terms: which sequence, contrast agent and technique the names of a series and of its sequence tell.

Vendors' names, and the words of English, German, French, Spanish, Portuguese and Italian. Terms are whole words: "post"
is no part of "compost", and T12 is a vertebra. What is stored of free text is the names of the terms in it, never text.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from enum import StrEnum
from functools import cache, lru_cache

_NOT_A_WORD = re.compile(r"[^a-z0-9+*]+")
_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z0-9])(?=[A-Z][a-z])|(?<=[0-9])(?=[A-Z]{2})|(?=\+)")
LONGEST_TEXT = 256
# The fields of series_type.SeriesType that routing rules test.
ROUTED_FIELDS = ("sequence", "contrast_agent", "plane", "acquisition", "body_part", "derived")


class Sequence(StrEnum):
    """What a series shows by its sequence."""

    T1 = "T1"
    T2 = "T2"
    FLAIR = "FLAIR"
    PD = "PD"
    T2_STAR = "T2*/SWI"
    DWI = "DWI"
    ADC = "ADC"
    PERFUSION = "perfusion"
    ANGIOGRAPHY = "angiography"
    LOCALIZER = "localizer"
    FUNCTIONAL = "functional"
    OTHER = "other"
    UNKNOWN = "unknown"


class Contrast(StrEnum):
    """Whether a contrast agent was given."""

    WITH = "with"
    WITHOUT = "without"
    UNKNOWN = "unknown"


class Technique(StrEnum):
    """How the signal is read out."""

    SPIN_ECHO = "spin echo"
    GRADIENT_ECHO = "gradient echo"
    ECHO_PLANAR = "echo planar"


@dataclass(frozen=True, slots=True)
class Term:
    """A name in the table and what it means."""

    name: str
    meaning: Sequence | Contrast | Technique


# Of a meaning: the name of each term, and its words as a regular expression over plain words.
_SEQUENCES: dict[Sequence, dict[str, str]] = {
    Sequence.LOCALIZER: {
        "localizer": r"(?:\w{0,8}locali[sz]er\w*|locali[sz]ers?|loc|locs|lok|lokalisierer|lokali[sz]ation"
                     r"|localisateurs?"
                     r"|localizador(?:es)?|localizzator[ei]|centraggio|reperages?|ubersicht\w*|uebersicht\w*"
                     r"|orientador|lokali[sz]ers?|auto ?align\w*)",
        "scout": r"(?:\w{0,8}scout|\w{0,8}scouts|scanogram|topogram\w*|pilots?|plan ?scan)",
        "survey": r"(?:\w{0,8}survey\w{0,8}|smart ?brain|smart ?exam)",
        "calibration": r"(?:\w{0,2}calibration|kalibration|calib|cal|asset ?cal\w*|ref ?scan|ref head|sense ?ref\w*"
                       r"|senserefscan|shim\w*|coil ?survey|prescan|field ?map\w*|gre ?field\w*|b[01] ?map\w*)",
        "three planes": r"(?:3|three|tri|drei)[ ]?(?:plane?s?|pl|ebenen|plans|planos|piani)",
    },
    Sequence.ADC: {
        "ADC": r"(?:[de]?adc\w{0,3}|exp adc|apparent diffusion\w*|diffusion coefficient|coef\w* de difus\w*"
               r"|(?:average|avg) dc)",
    },
    Sequence.DWI: {
        "diffusion": r"(?:\w{0,6}diff|diffw|diffusion\w*|difusion|difusao|diffusione|diffusionsgewichtet)",
        "DWI": r"(?:\w{0,5}dwi\w{0,4}|dwibs|dw|resolve|trace[wd]?|isodwi|dwise|dwisse)",
        "DTI": r"(?:\w{0,4}dti\w{0,3}|dtt|dki|dsi|hardi|noddi|tensor\w*|colfa|fa map|fractional aniso\w*|col fa"
               r"|ivim|mean diffusivity|\w{0,4}kurtosis|\d{2,3}dir"
               r"|\d{2,3} directions)",
        "b value": r"b ?(?:[5-9]00|[1-9][05]00)t?",
    },
    Sequence.PERFUSION: {
        "perfusion": r"(?:perf\w{0,4}|perfusion\w*|perfusao|perfusione|pwi|dsc|dce)",
        "ASL": r"(?:\w?p?c?asl|\d?dasl|asl\w{0,4}|arterial spin\w*)",
        "blood flow": r"(?:r|rel)?(?:cbf|cbv)|rb[fv]|k ?trans|mtt|ttp|tmax|pbp|gbp",
    },
    Sequence.FUNCTIONAL: {
        "BOLD": r"(?:(?<!ven )\w{0,4}bold\w{0,4}|\w{0,2}fmri|fmri\w{0,6}|resting ?state|rest ?fmri|rs ?fmri"
                r"|t maps?)",
    },
    Sequence.ANGIOGRAPHY: {
        "time of flight": r"(?:(?:[23]d)?i?tof(?:[23]d)?\w{0,6}|fi[23]d\w{0,6}|s3di|time of flight|flugzeit)",
        "angiography": r"(?:\w{0,4}mra|mra\w{0,3}|mrv|mr ?angio\w*|angio\w*|venogra\w*|flebo\w*|phlebo\w*|tricks|twist"
                       r"|inhance|\w{0,2}ifir|willis)",
        "phase contrast": r"(?:phase contrast|[23]d ?pc|pc ?[23]d|pca|contraste de (?:phase|fase))",
        "projection": r"(?:\w{0,3}mip|mips|max ip)",
    },
    Sequence.OTHER: {
        "tagging": r"(?:tagging|noise)",
        "parameter map": r"(?:t[12][*]? ?map\w*|t1 ?rho|r[12][*]? ?map\w*|qsm|magic|synthetic|symri|mrf|mapping"
                         r"|(?:fat|water) fraction)",
        "spectroscopy": r"(?:svs|csi|mrs|press|spectro\w*|spektro\w*|espectro\w*|steam)",
        "STIR": r"stir\w*|\w{1,3}stir",
        "double inversion": r"(?:dir|double inversion\w*|\w{0,2}mp2rage\w*|inv ?[12])",
        "steady state": r"(?:fiesta\w*|ciss\w*|truefisp|trufi\w*|b ?ffe|balanced|bssfp|true ?ssfp|dess)",
        "magnetisation transfer": r"(?:mtr|mt[ ]?(?:on|off|sat)|mtc map)",
        "screen": r"(?:screen ?save|screenshots?|summary|phoenix\w*|exam protocol|kospage|patient protocol)",
    },
    Sequence.T2_STAR: {
        "T2*": r"(?:t2 ?[*]\w*|t2 ?star\w*|t2s|t2w? ?ffe\w*|ven bold|t2 ?gre\w*|t2 ?(?:w )?(?:ge|fl2d|fl3d"
               r"|flash|hemo)\w*"
               r"|ha?emo\w{0,6}"
               r"|heme|medic\w*|merge\w*|gre t2)",
        "SWI": r"(?:\w{0,3}swi\w{0,4}|swan\w*|suscept\w*|suszeptib\w*|susceptib\w*|\w{0,2}venbold|venobold|mnip)",
    },
    Sequence.T1: {
        "T1": r"(?:[23]d)?t1(?![0-9])(?!rho)[a-z][a-z0-9]*|(?:[23]d)?t1|t1[+]\w*|t1 ?gewichtet",
        "MPRAGE": r"\w{0,8}(?:mprage|mp rage|memprage)\w{0,4}|mpr (?:t1|3d)",
        "BRAVO": r"\w{0,3}bravo\w{0,3}|mp ?bravo",
        "SPGR": r"\w{0,5}spgr\w{0,3}|efgre3d|3dfspgr|fspgr\w*",
        "FLASH 3D": r"[*]?tfl\w{0,6}|vibe\w*|\w?thrive|lava\w*|3dtfe|3d ?ir ?tfe",
    },
    Sequence.FLAIR: {
        "FLAIR": r"[a-z0-9]*flair[a-z0-9]*",
        "dark fluid": r"(?:dark ?fl(?:uid)?\w*|da ?fl|spc ?ir|spcir\w*|fluid att\w*)",
        "TIRM": r"\w{0,4}tirm\w{0,3}|[*]?tir2d\w*",
    },
    Sequence.T2: {
        "T2": r"(?:[23]d)?t2(?![0-9s])[a-z][a-z0-9]*|(?:[23]d)?t2|t2 ?gewichtet",
        "single shot": r"(?:haste\w*|ssfse\w*|ss ?tse|ssh ?tse)",
    },
    Sequence.PD: {
        "PD": r"(?:pd(?:w|wi)?(?:[ _]?(?:fs|tse|fse|se))?|proton(?:en)? ?(?:density|dichte)\w*|protonendichte\w*|dp"
              r"|densit\w* (?:de )?proton\w*|densidad proton\w*|rho)",
    },
}  # fmt: skip
_CONTRASTS: dict[Contrast, dict[str, str]] = {
    Contrast.WITHOUT: {
        "without": r"(?:non?|w ?o|without|ohne|sans|sin|senza|sem|pre|vor|avant|before|antes(?: de)?|prima(?: del?)?)"
                   r"(?: (?:any|de|del|di|iv|i v))? "
                   r"(?:contrast\w*|kontrast\w*|km|gd|gad\w*|injection|inj|mdc|mezzo|con|iv|c)",
        "pre": r"pre|pregad\w*|precontrast\w*|prekm|pregd|pre ?contraste|noncontrast|unenhanced|nativ|native"
               r"|nativo|nativa"
               r"|basale|wo|w o|non inject\w*",
    },
    Contrast.WITH: {
        "post": r"(?:t1 ?)?post(?! (?:fossa|op\b|operat|proc|hoc|rad|surg|trat|traum|treat|rx|cran|ictal|stroke"
                r"|mortem|erior))"
                r"|postgad\w*|postcontrast\w*|postkm|postgd|apres (?:inj\w*|gado\w*|contraste)|dopo (?:mdc|contrasto)"
                r"|despues de contraste|apos contraste|nach (?:km|kontrast\w*|gd)|mit (?:km|kontrast\w*|gd)",
        "gadolinium": r"(?:t1w? ?)?(?:gd|gad|gado\w*|gadolin\w*)|[+]gd|[+]gad\w*|dotarem|gadovist|magnevist"
                      r"|multihance|prohance"
                      r"|omniscan|gadavist|clariscan|primovist|elucirem|vueway|gd ?dtpa|\w{1,6}gd",
        "+C": r"[+] ?c|\w*[+]c|c ?[+]|[+]km|[+] ?km|\w*[+]gd|\w*[+]km|t1w?c\w?e?|t1 ?ce|ce|t1km|km",
        "contrast": r"(?:with|mit|w|avec|con|com)?(?: )?(?:contrast|contraste|contrasto|kontrast|kontrastmittel|mdc)"
                    r"|inject\w*|iniett\w*|enhanced|inyectad\w*",
    },
}  # fmt: skip
_TECHNIQUES: dict[Technique, dict[str, str]] = {
    Technique.ECHO_PLANAR: {
        "EPI": r"[*]?(?:epi|\w{0,4}epi|epi\w{0,6}|ep2d\w*|epfid\w*|epse\w*|\w{0,3}feepi|\w{0,3}seepi|ep_\w*"
               r"|se ?epi|ge ?epi"
               r"|fe ?epi|dwi ?se|dwisse|epb\w*|ep b\w*)",
    },
    Technique.GRADIENT_ECHO: {
        "gradient echo": r"[*]?(?:gre|ffe|t?fl[23]d\w*|tfe|spgr|fspgr|flash|me?dic|fgre|\w{0,3}gre)",
    },
    Technique.SPIN_ECHO: {
        "spin echo": r"[*]?(?:t?se(?:2d\w*)?|tse[23]?d?\w*|fse\w*|spc\w*|space|cube|vista|haste|h2d\w*|ssfse"
                     r"|grase|frfse\w*"
                     r"|\w?blade|propeller|multivane|tir2d\w*|spcir\w*)"
    },
}  # fmt: skip

_TERMS: list[tuple[Term, str]] = [
    (Term(name, meaning), words)
    for group in (_SEQUENCES, _CONTRASTS, _TECHNIQUES)
    for meaning, names in group.items()
    for name, words in names.items()
]
BY_NAME: dict[str, Term] = {term.name: term for term, _ in _TERMS}
_BEFORE = "without"  # names an agent to say that none was given


def plain_words(text: str) -> str:
    """Words in lower case without accents, each between spaces, first as written, then with CamelCase split.

    "+" and "*" stay: T2* and +C are terms.
    """
    text = text[:LONGEST_TEXT].replace("ß", "ss")
    bare = "".join(char for char in unicodedata.normalize("NFKD", text) if not unicodedata.combining(char))
    words = _NOT_A_WORD.sub(" ", bare.lower()).strip()
    split = _NOT_A_WORD.sub(" ", _HUMP.sub(" ", bare).lower()).strip()
    return f" {words} " if split == words else f" {words}  |  {split} "


@cache
def whole_words(pattern: str) -> re.Pattern[str]:
    """A pattern for words between spaces, compiled at first use: most commands read no names."""
    return re.compile(f"(?<= )(?:{pattern})(?= )")


@lru_cache(maxsize=4096)
def find_terms(text: str) -> tuple[str, ...]:
    """The names of the terms in a text, in the order of the table."""
    words = plain_words(text)
    found: list[str] = []
    for term, pattern in _TERMS:
        if whole_words(pattern).search(words) is None:
            continue
        found.append(term.name)
        if term.name == _BEFORE:
            words = whole_words(pattern).sub("|", words)  # "without contrast" is not "contrast"
    return tuple(found)


def meanings(names: tuple[str, ...] | list[str]) -> list[Term]:
    """The terms of these names; names that a later version no longer knows are left out."""
    return [BY_NAME[name] for name in names if name in BY_NAME]
