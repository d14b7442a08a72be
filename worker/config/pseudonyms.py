"""Pseudonyms for what the database keeps of a patient, where [privacy] pseudonymise asks for them."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable

from worker.config.settings import PrivacySection

_LENGTH = 16  # an accession number's column, PS3.5 6.2, VR SH; 80 bits


def pseudonym_of(privacy: PrivacySection) -> Callable[[str], str] | None:
    """Identifier → pseudonym under the site's key; None where identifiers are kept as they are.

    The same identifier has the same pseudonym, so that a search still finds it; an empty one stays empty. Who has not
    the key can neither reverse a pseudonym nor try out identifiers.
    """
    if not privacy.pseudonymise:
        return None
    key = privacy.pseudonym_key.get_secret_value().encode()

    def pseudonym(identifier: str) -> str:
        digest = hmac.new(key, identifier.encode(), hashlib.sha256).digest()
        return base64.b32encode(digest).decode()[:_LENGTH] if identifier else ""

    return pseudonym
