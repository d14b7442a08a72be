"""Access control of the web interface: tokens, browser sessions, CSRF, a limit on failures, and security headers.

    guard.install(app, settings, database, record, clock)         # once, in create_app

    @routes.get("/api/v1/results")
    def results(caller: Annotated[Caller, Depends(require(TokenRole.READ))]) -> ...: ...

    @routes.post("/jobs/{job}/retry")                             # a form sends csrf_token, a script X-CSRF-Token
    async def retry(request: Request, caller: Annotated[Caller, Depends(require(TokenRole.OPERATE))]) -> ...:
        fields = await posted(request)

A caller without access gets a problem (RFC 9457) and nothing else, and an audit event is recorded. A browser that
requests a page is redirected to /sign-in.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import ip_address
from urllib.parse import SplitResult, parse_qs, quote, urlsplit

from fastapi import FastAPI, Request, Response
from fastapi.responses import RedirectResponse
from starlette.concurrency import run_in_threadpool

from worker.audit import events
from worker.config.settings import Settings
from worker.db import tokens
from worker.db.engine import Database, DatabaseError, is_unavailable
from worker.db.tables import TokenRole
from worker.db.tokens import CredentialFault, NotAllowed, TokenHolder, allows
from worker.web.limits.addresses import network_of
from worker.web.limits.failures import Failures
from worker.web.limits.problem import problem
from worker.web.limits.requests import RequestLimits

COOKIE = "worker_session"
SIGN_IN = "/sign-in"
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_FAILURES_A_MINUTE = 20  # of a credential from an address
_FAILURES_OF_AN_ADDRESS = 200  # with whichever credential
_FORWARDED = ("x-forwarded-for", "forwarded", "x-real-ip")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request. `csrf` belongs in every form of a page; None for a caller without a cookie."""

    name: str
    role: TokenRole
    address: str
    csrf: str | None = None

    def may(self, role: TokenRole) -> bool:
        return allows(self.role, role)


class Denied(Exception):
    """A refused request: status and detail of the answer."""

    def __init__(self, status: int, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = headers or {}


def require(role: TokenRole) -> Callable[[Request], Awaitable[Caller]]:
    """A FastAPI dependency: the caller, who holds at least this role. Answers 401, 403 or 429 otherwise."""

    async def dependency(request: Request) -> Caller:
        guard: Guard = request.app.state.guard
        return await guard.admit(request, role)

    return dependency


async def posted(request: Request) -> dict[str, str]:
    """The fields of a URL-encoded form, the first value of each."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/x-www-form-urlencoded":
        return {}
    try:
        fields = parse_qs((await request.body()).decode(), max_num_fields=100, keep_blank_values=True)
    except ValueError:
        raise Denied(400, "the body is not a URL-encoded form") from None
    return {name: values[0] for name, values in fields.items()}


class Guard:
    """Authenticates callers, and counts and records refusals."""

    def __init__(
        self, settings: Settings, database: Database, record: events.RecordEvent, clock: Callable[[], datetime]
    ) -> None:
        self._web = settings.web
        self._database = database
        self._record = record
        self._clock = clock
        self._of_credential = Failures(_FAILURES_A_MINUTE)
        self._of_address = Failures(_FAILURES_OF_AN_ADDRESS)

    async def admit(self, request: Request, role: TokenRole) -> Caller:
        """The caller. Raises Denied."""
        caller = await run_in_threadpool(self._authenticate, request)
        if not caller.may(role):
            await run_in_threadpool(self._report, caller.name, request, f"the role {caller.role} does not allow this")
            raise Denied(403, f"this needs a token with the role {role}")
        if request.method not in _SAFE_METHODS:
            await self._require_own_form(request, caller)
        return caller

    def knows(self, request: Request) -> bool:
        """Whether a caller of a public route may see details: from this machine itself, or with a valid credential."""
        if is_loopback(self._web.host) and _is_direct(request):
            return True
        try:
            self._identify(request)
        except (NotAllowed, DatabaseError):
            return False
        return True

    def sign_in(self, request: Request, token: str) -> str:
        """The secret of a new session. Raises Denied."""
        address, token = _address(request), token.strip()
        now = self._clock()
        try:
            with self._database.write() as session:
                holder = tokens.check_token(session, token, now)
                until = now + timedelta(hours=self._web.session_hours)
                secret = tokens.open_web_session(session, holder, now, until)
        except NotAllowed as fault:
            raise self._refusal(request, fault, token) from None
        self._record(events.signed_in(holder.name, address))
        return secret

    def sign_out(self, request: Request, caller: Caller) -> None:
        with self._database.write() as session:
            tokens.close_web_session(session, request.cookies.get(COOKIE, ""))
        self._record(events.signed_out(caller.name, caller.address))

    def _authenticate(self, request: Request) -> Caller:
        if not self._web.require_token:  # then we listen on loopback only
            if not _is_direct(request):
                # DNS rebinding (another site's name for this address), or a proxy that brings strangers here.
                raise Denied(403, "use the host name localhost, without a proxy")
            return Caller("anybody on this machine", TokenRole.OPERATE, _address(request))
        address = _address(request)
        try:
            holder = self._identify(request)
        except NotAllowed as fault:
            raise self._refusal(request, fault, request.headers.get("authorization")) from None
        except DatabaseError as error:
            if not is_unavailable(error):
                raise
            raise Denied(503, "the database is unreachable") from None
        secret = None if "authorization" in request.headers else request.cookies[COOKIE]
        return Caller(holder.name, holder.role, address, tokens.csrf_token(secret) if secret else None)

    def _identify(self, request: Request) -> TokenHolder:
        authorization = request.headers.get("authorization")
        secret = request.cookies.get(COOKIE)
        if authorization is None and not secret:
            raise NotAllowed(CredentialFault.MISSING)
        with self._database.read() as session:
            if authorization is None:
                return tokens.check_web_session(session, secret or "", self._clock())
            scheme, _, token = authorization.partition(" ")
            return tokens.check_token(session, token.strip() if scheme.lower() == "bearer" else "", self._clock())

    def _refusal(self, request: Request, fault: NotAllowed, credential: str | None) -> Denied:
        """Count and record a refusal; its reason goes to the audit trail, not to the caller.

        Only what was refused is counted: a valid credential passes, whoever else is behind its address. A cookie that
        has expired is no attack: a page of many pictures sends it many times.
        """
        self._report("unknown", request, f"token {fault.reason}")
        if credential is not None:
            address = network_of(_address(request))
            repeated = self._of_credential.add((address, tokens.digest(credential))) > _FAILURES_A_MINUTE
            if repeated or self._of_address.add(address) > _FAILURES_OF_AN_ADDRESS:
                return Denied(429, "too many invalid credentials from this address", {"Retry-After": "60"})
        return Denied(401, "this needs a valid token", {"WWW-Authenticate": 'Bearer realm="brain-mri-worker"'})

    def _report(self, name: str, request: Request, reason: str) -> None:
        self._record(events.access_denied(name, _address(request), request.url.path, reason))

    async def _require_own_form(self, request: Request, caller: Caller) -> None:
        """Accept only forms of our own: a browser sends its cookie with what another site makes it post, too."""
        own = same_origin(request) or self._is_allowed_origin(request)
        if own and caller.csrf is not None:
            given = request.headers.get("x-csrf-token") or (await posted(request)).get("csrf_token", "")
            own = hmac.compare_digest(caller.csrf.encode(), given.encode())
        if not own:
            await run_in_threadpool(self._report, caller.name, request, "a cross-site or expired form")
            raise Denied(403, "this form has expired; reload the page")

    def _is_allowed_origin(self, request: Request) -> bool:
        """Whether a page of [web] cors_origins sends a token, which no form of another site can."""
        return "authorization" in request.headers and request.headers.get("origin") in self._web.cors_origins


# --- for every request ----------------------------------------------------------------------------


def install(
    app: FastAPI, settings: Settings, database: Database, record: events.RecordEvent, clock: Callable[[], datetime]
) -> None:
    """Add the guard, security headers and the body limit to an application. Routes use `require`."""
    app.state.guard = Guard(settings, database, record, clock)
    app.add_exception_handler(Denied, _answer_denied)
    app.add_middleware(RequestLimits, stow_bytes=settings.web.stow_maximum_bytes if settings.web.stow else 0)


async def _answer_denied(request: Request, denied: Exception) -> Response:
    if not isinstance(denied, Denied):
        raise denied
    wants_page = request.method == "GET" and "text/html" in request.headers.get("accept", "")
    response: Response
    if denied.status == 401 and wants_page and "authorization" not in request.headers:
        target = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        response = RedirectResponse(f"{SIGN_IN}?next={quote(target)}", status_code=303)
    else:
        headers = dict(denied.headers)
        if denied.status == 401 and "hx-request" in request.headers:
            headers["HX-Redirect"] = SIGN_IN
        response = problem(denied.status, denied.detail, headers)
    if denied.status == 401 and COOKIE in request.cookies:
        response.delete_cookie(COOKIE)
    return response


def is_loopback(host: str) -> bool:
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def same_origin(request: Request) -> bool:
    """Whether a request comes from our own page, by what the browser reports; True for a client that is no browser."""
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site in ("same-origin", "none")
    origin = request.headers.get("origin")
    return origin is None or _split(origin).netloc == request.headers.get("host")


def _is_direct(request: Request) -> bool:
    """Whether a request comes from this machine itself, by one of its own names, and through no proxy."""
    through_proxy = any(name in request.headers for name in _FORWARDED)
    return not through_proxy and is_loopback(_address(request)) and is_loopback(_host_name(request))


def _host_name(request: Request) -> str:
    return _split(f"//{request.headers.get('host', '')}").hostname or ""


def _split(address: str) -> SplitResult:
    """The parts of an address, none of a malformed address."""
    try:
        return urlsplit(address)
    except ValueError:
        return SplitResult("", "", "", "", "")


def _address(request: Request) -> str:
    return request.client.host if request.client else "unknown"
