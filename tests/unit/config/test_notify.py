from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from worker.config.notify import NotifySection
from worker.config.settings import load_settings
from worker.errors import StartError
from worker.send.destinations import kinds

MAIL: dict[str, Any] = {"name": "a", "smtp_host": "mail", "sender": "a@b", "recipients": ("c@d",)}


def test_a_channel_is_a_webhook_or_mail_with_every_event_and_no_patient() -> None:
    section = NotifySection(name="a", url="https://chat.example/hook?key=1")
    assert section.events == ("parked", "undelivered", "urgent-lesion")
    assert (section.patient_data, section.is_encrypted) == (False, True)
    assert NotifySection(**MAIL).address == "mail:587"
    assert not NotifySection(**MAIL | {"smtp_tls": "none"}).is_encrypted


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"name": "a"}, "give url"),
        (MAIL | {"url": "https://x"}, "give url"),
        ({"name": "a", "url": "file:///etc/passwd"}, "URL of a webhook"),
        ({"name": "a", "url": "https://user:pass@host/"}, "URL of a webhook"),
        ({"name": "a", "url": "http://host/", "patient_data": True}, "encrypted only"),
        (MAIL | {"smtp_tls": "none", "patient_data": True}, "encrypted only"),
        (MAIL | {"smtp_user": "a"}, "belong together"),
        (MAIL | {"recipients": ()}, "sender and recipients"),
        (MAIL | {"sender": "a@b\nBcc: x@y"}, "e-mail address"),
        ({"name": "a", "url": "https://x", "events": ("everything",)}, "events"),
    ],
)
def test_what_cannot_be_is_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        NotifySection(**values)


def test_two_channels_have_two_names_and_a_wrong_key_is_named(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    entry = '[[notify]]\nname = "a"\nurl = "https://x"\n'
    file.write_text(entry * 2)
    with pytest.raises(StartError, match="same name"):
        load_settings(file, kinds())
    file.write_text(entry + "patient = true\n")
    with pytest.raises(StartError, match="did you mean 'patient_data'"):
        load_settings(file, kinds())
