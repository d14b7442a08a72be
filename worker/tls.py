"""TLS contexts for servers and clients: TLS 1.2 or 1.3, certificates on both sides (PS3.15 B.12, BCP 195 profile)."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from worker.errors import StartError

# BCP 195 (RFC 9325 4.2): forward secrecy and authenticated encryption only; TLS 1.3 has no other ciphers.
_TLS_1_2_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM"
_RENEW_WITHIN = timedelta(days=30)
_FLIGHTS = 4  # of a handshake, in either direction


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
    if certificate is not None:
        _load(certificate, lambda: context.load_cert_chain(certificate, key, password=_no_password(key)), key)
    if authority is not None:
        _load(authority, lambda: context.load_verify_locations(authority))
    else:
        context.load_default_certs()
    return context


def _load(file: Path, load: Callable[[], None], key: Path | None = None) -> None:
    """Load a certificate, and its key. Raises StartError that names the file at fault."""
    for needed in (file, key):
        if needed is None:
            continue
        try:
            with needed.open("rb"):
                pass
        except FileNotFoundError:
            raise StartError("tls-file-missing", f"TLS: there is no {needed}") from None
        except OSError as fault:
            raise StartError("tls-invalid", f"TLS: {needed} cannot be read: {fault.strerror}") from None
    try:
        load()
    except (ssl.SSLError, OSError) as fault:
        raise StartError("tls-invalid", _unusable(fault, file, key)) from None


def _unusable(fault: OSError, file: Path, key: Path | None) -> str:
    reason = fault.reason if isinstance(fault, ssl.SSLError) else ""
    if reason == "KEY_VALUES_MISMATCH":
        return f"TLS: {key} is not the key of {file}"
    files = (
        f"{file} or {key} cannot be used: not a PEM certificate with its key"
        if key
        else (f"{file} cannot be used: not a PEM file of certificates")
    )
    return f"TLS: {files} ({(reason or 'unreadable').replace('_', ' ').lower()})"


def _no_password(key: Path | None) -> Callable[[], str]:
    def refuse() -> str:  # OpenSSL would ask at the terminal, for which a service waits without end
        raise StartError("tls-invalid", f"TLS: {key} is encrypted: give a key without a passphrase")

    return refuse


def certificate_fault(certificate: Path, key: Path, now: datetime, *, of_server: bool) -> str | None:
    """Why peers will not accept the certificate: it is not valid yet, expired, or expires within a month.

    It is shown to a TLS peer in this process that trusts it, so that OpenSSL judges it. Raises StartError.
    """
    ours = _loaded(
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if of_server else ssl.PROTOCOL_TLS_CLIENT), certificate, key, certificate
    )
    theirs = _loaded(
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT if of_server else ssl.PROTOCOL_TLS_SERVER), certificate, key, certificate
    )
    ours.check_hostname = theirs.check_hostname = False
    ours.verify_mode, theirs.verify_mode = ssl.CERT_NONE, ssl.CERT_REQUIRED
    theirs.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    inward, outward = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = (ours.wrap_bio(inward, outward, of_server), theirs.wrap_bio(outward, inward, not of_server))
    try:
        for _ in range(_FLIGHTS):
            for side in sides:
                with suppress(ssl.SSLWantReadError):
                    side.do_handshake()
        shown = sides[1].getpeercert() or {}
    except ssl.SSLCertVerificationError as fault:
        return f"{certificate}: {fault.verify_message}"
    except (ssl.SSLError, ValueError) as fault:
        return f"{certificate} cannot be used ({getattr(fault, 'reason', None) or 'no handshake'})"
    ends = datetime.fromtimestamp(ssl.cert_time_to_seconds(str(shown.get("notAfter"))), UTC)
    return f"{certificate} expires on {ends:%Y-%m-%d}" if ends - now < _RENEW_WITHIN else None
