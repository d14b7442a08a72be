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


def web_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """For the web port: browsers show no certificate, a token says who they are. Raises StartError."""
    return _loaded(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), certificate, key, None)


def client_context(certificate: Path | None, key: Path | None, authority: Path | None) -> ssl.SSLContext:
    """For a destination: its certificate must be the authority's and name its host. Raises StartError.

    Without `authority` the system's authorities count; without certificate and key we show none.
    """
    return _loaded(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), certificate, key, authority)


def association_arguments(
    certificate: Path | None, key: Path | None, authority: Path | None, host: str
) -> tuple[ssl.SSLContext, str] | None:
    """What pynetdicom's `associate` wants for DICOM over TLS; None without the files. Raises StartError."""
    if certificate is None or key is None or authority is None:
        return None
    return client_context(certificate, key, authority), host


def _loaded(
    context: ssl.SSLContext, certificate: Path | None, key: Path | None, authority: Path | None
) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_TLS_1_2_CIPHERS)
    files = [one for one in (certificate, key, authority) if one is not None]
    try:
        if certificate is not None:
            context.load_cert_chain(certificate, key)
        if authority is not None:
            context.load_verify_locations(authority)
        else:
            context.load_default_certs()
    except FileNotFoundError:
        missing = next((one for one in files if not one.is_file()), files[0])
        raise StartError("tls-file-missing", f"TLS: there is no {missing}") from None
    except (ssl.SSLError, OSError) as error:
        shown = ", ".join(str(one) for one in files)
        raise StartError("tls-invalid", f"TLS: {shown} cannot be used: {error}") from None
    return context
