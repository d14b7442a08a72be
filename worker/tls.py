"""TLS contexts for servers and clients: TLS 1.2 or 1.3, certificates on both sides (PS3.15 B.12, BCP 195 profile)."""

from __future__ import annotations

import ssl
from pathlib import Path

from worker.errors import StartError

# BCP 195 (RFC 9325 4.2): forward secrecy and authenticated encryption only; TLS 1.3 has no other ciphers.
_TLS_1_2_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM"


def server_context(certificate: Path, key: Path, authority: Path) -> ssl.SSLContext:
    """The context of the Storage SCP, which rejects peers without a certificate of the authority. Raises StartError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    return _loaded(context, certificate, key, authority)


def web_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """The context of the web port: browsers authenticate with a token, not a certificate. Raises StartError."""
    return _loaded(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), certificate, key, None)


def client_context(certificate: Path | None, key: Path | None, authority: Path | None) -> ssl.SSLContext:
    """The context for a destination, whose certificate must be the authority's and name its host. Raises StartError.

    Without `authority` the system's authorities are trusted; without certificate and key none is presented.
    """
    return _loaded(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), certificate, key, authority)


def association_arguments(
    certificate: Path | None, key: Path | None, authority: Path | None, host: str
) -> tuple[ssl.SSLContext, str] | None:
    """The `tls_args` of pynetdicom's `associate`; None without the files. Raises StartError."""
    if certificate is None or key is None or authority is None:
        return None
    return client_context(certificate, key, authority), host


def _loaded(
    context: ssl.SSLContext, certificate: Path | None, key: Path | None, authority: Path | None
) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_TLS_1_2_CIPHERS)
    files = [file for file in (certificate, key, authority) if file is not None]
    try:
        if certificate is not None:
            context.load_cert_chain(certificate, key)
        if authority is not None:
            context.load_verify_locations(authority)
        else:
            context.load_default_certs()
    except FileNotFoundError:
        missing = next((file for file in files if not file.is_file()), files[0])
        raise StartError("tls-file-missing", f"TLS: there is no {missing}") from None
    except (ssl.SSLError, OSError) as error:
        shown = ", ".join(str(file) for file in files)
        raise StartError("tls-invalid", f"TLS: {shown} cannot be used: {error}") from None
    return context
