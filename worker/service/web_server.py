"""The server of the web role: the socket that it listens on and its configuration."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import uvicorn

from worker.config.settings import Settings
from worker.errors import StartError
from worker.network.listening import explain_binding, listening_socket
from worker.tls import web_context
from worker.web.limits.connections import Connections, limited_protocol

if TYPE_CHECKING:
    from fastapi import FastAPI


def web_listener(host: str, port: int) -> socket.socket:
    """The socket of the web role. Raises StartError when the address cannot be bound."""
    try:
        return listening_socket(host, port)
    except (OSError, UnicodeError) as fault:
        raise StartError("port-unavailable", explain_binding(fault, "web", host, port)) from None


def web_config(settings: Settings, app: FastAPI) -> uvicorn.Config:
    """The configuration of the web server. Raises StartError for TLS files that cannot be used."""
    certificate, key = settings.web.tls_certificate, settings.web.tls_key
    config = uvicorn.Config(
        app,
        loop="worker.web.limits.connections:LimitedLoop",
        http=limited_protocol(Connections(settings.web)),
        proxy_headers=bool(settings.web.trusted_proxies),
        forwarded_allow_ips=[str(network) for network in settings.web.trusted_proxies],
        log_config=None,
        access_log=False,
        server_header=False,
        ssl_certfile=certificate,
        ssl_keyfile=key,
    )
    if certificate is not None and key is not None:
        context = web_context(certificate, key)
        config.load()
        config.ssl = context  # the BCP 195 profile, as on the DICOM port
    return config
