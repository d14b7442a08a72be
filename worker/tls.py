"""TLS contexts for both directions: TLS 1.2 or 1.3, certificates on both sides (PS3.15 B.12, BCP 195 profile)."""

from __future__ import annotations

import ssl
from pathlib import Path

from worker.errors import StartError

# BCP 195 (RFC 9325 4.2): forward secrecy and authenticated encryption only; TLS 1.3 has no others.
_TLS_1_2_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM"


def server_context(certificate: Path, key: Path, authority: Path) -> ssl.SSLContext:
    """For the Storage SCP: a peer without a certificate of the authority gets no connection. Raises StartError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    return _loaded(context, certificate, key, authority)


def client_context(certificate: Path, key: Path, authority: Path) -> ssl.SSLContext:
    """For a destination: its certificate must be the authority's and name its host. Raises StartError."""
    return _loaded(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), certificate, key, authority)


def _loaded(context: ssl.SSLContext, certificate: Path, key: Path, authority: Path) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_TLS_1_2_CIPHERS)
    try:
        context.load_cert_chain(certificate, key)
        context.load_verify_locations(authority)
    except FileNotFoundError:
        missing = next((one for one in (certificate, key, authority) if not one.is_file()), certificate)
        raise StartError("tls-file-missing", f"TLS: there is no {missing}") from None
    except (ssl.SSLError, OSError) as error:
        raise StartError("tls-invalid", f"TLS: {certificate}, {key} or {authority} cannot be used: {error}") from None
    return context
