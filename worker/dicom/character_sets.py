"""The character sets of text: only the Defined Terms of Specific Character Set (PS3.3 C.12.1.1.2).

pydicom takes any name for a term that Python knows as a codec, and some of Python's take quadratic time (punycode) or
are none of text (zip). Importing this module ends that for the process: whatever decodes a sender's text imports it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from pydicom import charset

UNKNOWN = "ascii"  # what is none of its characters is replaced
_MISSPELT = (
    (re.compile(r"ISO[^_]IR(.{0,8})"), "ISO_IR{}"),
    (re.compile(r"ISO.2022.IR.(.{0,8})"), "ISO 2022 IR {}"),
)


class DefinedTerms(dict[str, str]):
    """Python's codec for each term; for the misspellings that pydicom knows, too, and ASCII for anything else."""

    def __init__(self, codecs: Mapping[str, str]) -> None:
        super().__init__(codecs)
        self._codecs = frozenset(codecs.values())

    def __missing__(self, term: str) -> str:
        for misspelt, correct in _MISSPELT:
            if match := misspelt.fullmatch(term):
                return self.get(correct.format(match[1]), UNKNOWN)
        # pydicom translates what it has translated once more: the codecs of the terms stand for themselves.
        return term if term in self._codecs else UNKNOWN


if not isinstance(charset.python_encoding, DefinedTerms):
    charset.python_encoding = DefinedTerms(charset.python_encoding)
