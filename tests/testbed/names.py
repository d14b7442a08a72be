"""Text as senders encode it: the examples of PS3.5 annexes H to K, and what hospitals send besides."""

from __future__ import annotations

from pydicom import Dataset
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

# Specific Character Set, the bytes of a name, and the name.
STANDARD_NAMES = [
    # H.3.1, H.3.2: Japanese
    (
        "\\ISO 2022 IR 87",
        b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B",
        "Yamada^Tarou=山田^太郎=やまだ^たろう",
    ),
    (
        "ISO 2022 IR 13\\ISO 2022 IR 87",
        b"\xd4\xcf\xc0\xde^\xc0\xdb\xb3=\x1b$B;3ED\x1b(J^\x1b$BB@O:\x1b(J=\x1b$B$d$^$@\x1b(J^\x1b$B$?$m$&\x1b(J",
        "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう",
    ),
    # I.2: Korean
    (
        "\\ISO 2022 IR 149",
        b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf",
        "Hong^Gildong=洪^吉洞=홍^길동",
    ),
    # J.1, J.3: Chinese in UTF-8 and GB 18030
    ("ISO_IR 192", b"Wang^XiaoDong=\xe7\x8e\x8b^\xe5\xb0\x8f\xe6\x9d\xb1=", "Wang^XiaoDong=王^小東"),
    ("GB18030", b"Wang^XiaoDong=\xcd\xf5^\xd0\xa1\xb6\xab=", "Wang^XiaoDong=王^小东"),
    # K.2: Chinese with code extensions
    ("\\ISO 2022 IR 58", b"Zhang^XiaoDong=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab= ", "Zhang^XiaoDong=张^小东"),
]
# The same, of text with lines: J.2, J.4, K.3.
STANDARD_TEXTS = [
    (
        "ISO_IR 192",
        "The first line includes中文.\r\nThe second line includes中文, too.\r\nThe third line.\r\n".encode(),
        "The first line includes中文.\r\nThe second line includes中文, too.\r\nThe third line.\r\n",
    ),
    (
        "GB18030",
        b"The first line includes\xd6\xd0\xce\xc4.\r\nThe second line includes\xd6\xd0\xce\xc4, too.\r\n",
        "The first line includes中文.\r\nThe second line includes中文, too.\r\n",
    ),
    (
        "\\ISO 2022 IR 58",
        b"1.\x1b$)A\xb5\xda\xd2\xbb\xd0\xd0\xce\xc4\xd7\xd6\xa1\xa3\r\n2.\x1b$)A\xb5\xda\xb6\xfe\xd0\xd0\xce\xc4\xd7\xd6"
        b"\xa1\xa3\r\n3.\x1b$)A\xb5\xda\xc8\xfd\xd0\xd0\xce\xc4\xd7\xd6\xa1\xa3\r\n",
        "1.第一行文字。\r\n2.第二行文字。\r\n3.第三行文字。\r\n",
    ),
    (
        "\\ISO 2022 IR 149",
        b"The 1st line includes \x1b$)C\xb1\xe6\xb5\xbf.\r\nThe 2nd line includes \x1b$)C\xb1\xe6\xb5\xbf, too.\r\n",
        "The 1st line includes 길동.\r\nThe 2nd line includes 길동, too.\r\n",
    ),
]
OTHER_NAMES = [
    ("ISO_IR 100", "Müller^Jürgen".encode("latin-1"), "Müller^Jürgen"),
    ("ISO_IR 203", "Œuvré^Zoë".encode("iso8859-15"), "Œuvré^Zoë"),
    ("ISO_IR 127", "قباني^لنزار".encode("iso8859-6"), "قباني^لنزار"),
    ("ISO 2022 IR 6\\ISO 2022 IR 144", b"abc^\x1b-L\xbb\xee\xda", "abc^Люк"),
    # G0 and G1 are designated apart: katakana stay in G1 while kanji come and go in G0.
    ("ISO 2022 IR 13\\ISO 2022 IR 87", b"\x1b$B;3ED\x1b(J\xd4\xcf", "山田ﾔﾏ"),
    # "=" and the backslash are bytes of kanji: 春 is 3D 55, 楞 is 5C 41.
    ("\\ISO 2022 IR 87", b"Haru=\x1b$B=U\\A\x1b(B^\x1b$B=(\x1b(B", "Haru=春楞^秀"),
    # No character set, or another spelling of it, or an escape sequence that names no Defined Term.
    (None, "Müller^Jürgen".encode(), "Müller^Jürgen"),
    (None, "Müller^Jürgen".encode("latin-1"), "Müller^Jürgen"),
    ("ISO_IR 6", "Müller^Jürgen".encode(), "Müller^Jürgen"),
    ("utf-8", "Müller^Jürgen".encode(), "Müller^Jürgen"),
    ("PRIVATE 7", b"Doe^Jane", "Doe^Jane"),
    ("\\ISO 2022 IR 87", b"Doe\x1b%G^Jane", "Doe^Jane"),
    # Extensions are declared, but not used as they must be: no escape sequence, or only the first of two.
    ("\\ISO 2022 IR 149", b"\xc8\xab^\xb1\xe6\xb5\xbf", "홍^길동"),
    ("\\ISO 2022 IR 58", b"\x1b$)A\xd5\xc5^\xd0\xa1\xb6\xab", "张^小东"),
]


def set_raw(ds: Dataset, keyword: str, value: bytes, vr: str) -> None:
    """Give an element its value as encoded."""
    tag = Tag(keyword)
    value += b" " * (len(value) % 2)
    ds[tag] = RawDataElement(tag, vr, len(value), value, 0, False, True)
