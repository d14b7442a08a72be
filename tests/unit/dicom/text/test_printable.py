"""What is kept of a received text."""

from __future__ import annotations

import pytest

from worker.dicom.text.printable import is_storable, printable


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (" Doe^John ", "Doe^John"),
        ("A\tB\x00C\x7f", "ABC"),
        ("line\r\nbreak\u2028", "linebreak"),
        ("山田\u3000太郎", "山田\u3000太郎"),
        ("\ue000^می\u200cنم", "\ue000^می\u200cنم"),  # a private character of GB 18030, and a joiner of Persian
        ("gnp\u202e.exe", "gnp.exe"),
        ("a\ud800b", "ab"),
    ],
)
def test_control_characters_are_removed_and_nothing_else(text: str, kept: str) -> None:
    assert printable(text) == kept
    assert is_storable(kept)
    assert is_storable(text) is (text.strip() == kept)
