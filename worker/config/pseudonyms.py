"""Pseudonyms of patient identifiers for the database, where [privacy] pseudonymise is set."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable

from worker.config.sections import PrivacySection

_LENGTH = 16  # an accession number's column, PS3.5 6.2, VR SH; 80 bits


def pseudonym_of(privacy: PrivacySection) -> Callable[[str], str] | None:
    """Identifier → pseudonym under the site's key; None where identifiers are stored unchanged.

    The same identifier always has the same pseudonym, so that a search still finds it; an empty identifier stays empty.
    Without the key a pseudonym cannot be reversed, nor can identifiers be tried.
    """
    if not privacy.pseudonymise:
        return None
    key = privacy.pseudonym_key.get_secret_value().encode()

    def pseudonym(identifier: str) -> str:
        digest = hmac.new(key, identifier.encode(), hashlib.sha256).digest()
        return base64.b32encode(digest).decode()[:_LENGTH] if identifier else ""

    return pseudonym
