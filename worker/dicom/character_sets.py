"""The text of senders: which character set it is in (PS3.3 C.12.1.1.2), and its characters (PS3.5 6.1).

Whatever decodes text imports this module, which gives the whole process a single rule in place of pydicom's:

- Only the Defined Terms of Specific Character Set choose a codec. pydicom takes any name that Python knows as a codec,
  and some of Python's take quadratic time (punycode) or are none of text (zip).
- Escape sequences change G0 and G1 each for itself, until a delimiter restores both (PS3.5 6.1.2.5). A sequence that
  designates no set of a Defined Term is left out.
- Characters beyond ASCII where none is declared: UTF-8 where the bytes are valid as such, else the first of the
  declared extensions that has them, else Latin-1. Under an unknown term: UTF-8, else replaced. Bytes that a declared
  set does not have are replaced.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

from pydicom import charset, values
from pydicom.multival import MultiValue
from pydicom.valuerep import TEXT_VR_DELIMS, VR, PersonName

import worker.dicom.odd_values  # noqa: F401 - whatever reads text reads odd elements

UNKNOWN = "ascii"  # the codec of an unknown term
_MISSPELT = (
    (re.compile(r"ISO.?IR.?(\d{1,3})"), "ISO_IR {}"),
    (re.compile(r"ISO.?2022.?IR.?(\d{1,3})"), "ISO 2022 IR {}"),
)
_ISO_8859 = re.compile(r"(?:ISO.?)?8859.(\d{1,2})")
_PARTS_OF_ISO_8859 = {  # by their registrations, PS3.3 Table C.12-2
    "1": "100", "2": "101", "3": "109", "4": "110", "5": "144", "6": "127", "7": "126", "8": "138", "9": "148",
    "11": "166", "15": "203",
}  # fmt: skip
_LATIN_9 = {"ISO_IR 203": "iso8859_15", "ISO 2022 IR 203": "iso8859_15"}  # which pydicom lacks
_WITHOUT_EXTENSIONS = ("UTF8", "GB18030", "GBK")  # their terms allow no escape sequences
_KANJI = ("iso2022_jp", "iso2022_jp_2")  # two bytes a character in G0; as value 1 they begin in ASCII
_DESIGNATIONS = {**charset.CODES_TO_ENCODINGS, b"\x1b-b": "iso8859_15"}
_NAME_DELIMITERS = TEXT_VR_DELIMS | {ord("^"), ord("=")}
_TOKEN = re.compile(rb"(\x1b[ -/]+[0-~])|([\x80-\xff]+)|([!-~]+)|[\x00- \x7f]")


class DefinedTerms(dict[str, str]):
    """Python's codec for each term, in any case and with other separators, and for a part of ISO 8859 by its number.

    ASCII for anything else.
    """

    def __init__(self, codecs: Mapping[str, str]) -> None:
        super().__init__(codecs)
        self._codecs = frozenset(codecs.values())

    def __missing__(self, term: str) -> str:
        # pydicom translates what it has translated once more: the codecs of the terms stand for themselves.
        if term in self._codecs:
            return term
        spelled = term.upper()
        for misspelt, correct in _MISSPELT:
            if match := misspelt.fullmatch(spelled):
                return self.get(correct.format(match[1]), UNKNOWN)
        if match := _ISO_8859.fullmatch(spelled):
            return self.get(f"ISO_IR {_PARTS_OF_ISO_8859.get(match[1])}", UNKNOWN)
        return self.get(spelled, UNKNOWN)


def decode_text(value: bytes, encodings: Sequence[str], delimiters: Collection[int] = TEXT_VR_DELIMS) -> str:
    """The characters of a value. `encodings`: the codecs of Specific Character Set, as pydicom converts it.

    `delimiters`: the characters that restore the initial sets, besides the backslash.
    """
    if b"\x1b" in value and encodings[0] not in _WITHOUT_EXTENSIONS:
        return _decode_extended(value, encodings, {*delimiters, ord("\\")})
    return _decode_initial(value, encodings)


def _decode_initial(value: bytes, encodings: Sequence[str]) -> str:
    """Text in the initial sets: ASCII, and the codec of value 1 if it has more."""
    first = encodings[0]
    if value.isascii():
        return value.decode("ascii")
    if first in (charset.default_encoding, UNKNOWN, *_KANJI):
        return _decode_undeclared(value, encodings)
    return value.decode(first, "replace")


def _decode_undeclared(value: bytes, encodings: Sequence[str]) -> str:
    for codec in dict.fromkeys(("utf-8", *encodings[1:])):
        if codec in _KANJI:
            continue
        try:
            return value.decode(codec)
        except UnicodeDecodeError as error:
            # A long value may have been cut within its last character.
            if codec == "utf-8" and error.end == len(value) and not value[: error.start].isascii():
                return value[: error.start].decode(codec, "replace")
    return value.decode("ascii" if encodings[0] == UNKNOWN else "latin-1", "replace")


def _decode_extended(value: bytes, encodings: Sequence[str], delimiters: set[int]) -> str:
    """Text with code extensions (PS3.5 6.1.2.5): `g0` and `g1` are the sets in use, None the initial ones."""
    text: list[str] = []
    g0 = g1 = None
    for match in _TOKEN.finditer(value):
        escape, high, low = match.groups()
        if escape is not None:
            codec = _DESIGNATIONS.get(escape)
            if codec is None:
                continue
            if escape[1:2] in b"-)" or escape[1:3] == b"$)":
                g1 = codec
            else:
                g0 = escape if codec in _KANJI else None
        elif high is not None:
            text.append(_decode_initial(high, encodings) if g1 is None else high.decode(g1, "replace"))
        elif low is not None and g0 is not None:
            pairs = low[: len(low) & ~1]
            text.append((g0 + pairs).decode(_KANJI[1], "replace") + low[len(pairs) :].decode("ascii"))
            if low[len(pairs) :] and low[-1] in delimiters:
                g0 = g1 = None
        else:
            text.append(match[0].decode("ascii"))
            if not delimiters.isdisjoint(match[0]):
                g0 = g1 = None
    return "".join(text)


def _convert_names(value: bytes, encodings: Sequence[str] | None = None) -> PersonName | MultiValue[PersonName]:
    """As pydicom's `convert_PN`, which does not know the delimiters of a name; what was sent stays with the name."""
    encodings = encodings or [charset.default_encoding]
    value = value.rstrip(b"\x00 ")
    texts = decode_text(value, encodings, _NAME_DELIMITERS).split("\\")
    names = [PersonName(text, encodings) for text in texts]
    if len(names) > 1:
        return MultiValue(PersonName, names)
    names[0].original_string = value
    return names[0]


def _replace_rules() -> None:
    if isinstance(charset.python_encoding, DefinedTerms):
        return
    charset.python_encoding = DefinedTerms(charset.python_encoding | _LATIN_9)
    charset.decode_bytes = charset.decode_string = values.decode_bytes = decode_text
    values.converters[VR.PN] = _convert_names


_replace_rules()
