"""Notices to operators by webhook or e-mail: found, added, and sent with lease and backoff, as deliveries are.

What is due goes out in one message, so that a PACS that is down for a night is no flood. No message names a patient
unless the [[notify]] has `patient_data`.
"""

from __future__ import annotations

import os
import smtplib
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from email.message import EmailMessage
from typing import Any
from urllib.parse import urlsplit

import requests

from worker.audit import events
from worker.config.notify import NotifySection
from worker.db.engine import Database
from worker.db.operating.notices import (
    Patient,
    add_notices,
    claim_notices,
    end_notices,
    find_news,
    notices_wait,
    patients_of,
    untold,
)
from worker.db.tables import NoticeRow, NoticeState, cut_detail
from worker.errors import Retry, StartError
from worker.logs import fault_fields, get_log
from worker.network import unreachable
from worker.process import Promise, unwatched
from worker.send.http import Session, status_line
from worker.send.sender import backoff
from worker.tls import client_context
from worker.wording import counted

_FIND_SECONDS = 5.0
_A_MESSAGE = 100
_ROUND_SECONDS = 300.0
_DISCLAIMER = "Research use only: not for diagnosis."


@dataclass
class Notifier:
    """Tells one channel."""

    section: NotifySection
    database: Database
    clock: Callable[[], datetime]
    record: events.RecordEvent = events.unrecorded
    promise: Promise = unwatched
    _found_at: float | None = field(default=None, init=False)

    @property
    def owner(self) -> str:
        return f"{socket.gethostname()}:{os.getpid()}:notify-{self.section.name}"

    def run(self, stop: threading.Event, poll_seconds: float = 0.5) -> None:
        """Find and send until `stop`."""
        while not stop.is_set():
            self.promise(4 * self.section.timeout_seconds + _ROUND_SECONDS)
            try:
                if self._found_at is None or time.monotonic() - self._found_at >= _FIND_SECONDS:
                    self.find()
                    self._found_at = time.monotonic()
                self.send_due()
            except Exception as error:  # a thread's boundary: what is leased is due again when its lease expires
                get_log().error("notifying failed", channel=self.section.name, **fault_fields(error))
                stop.wait(_FIND_SECONDS)
            stop.wait(poll_seconds)

    def find(self) -> int:
        """Add a notice of everything that this channel has not been told; their number."""
        section, now = self.section, self.clock()
        with self.database.read() as session:
            found = find_news(session, section.events, timedelta(seconds=section.undelivered_seconds), now)
            news = untold(session, section.name, found)
        if news:
            with self.database.write() as session:
                add_notices(session, section.name, news, now)
        return len(news)

    def send_due(self) -> int:
        """Send what is due in one message; the number of notices."""
        section = self.section
        with self.database.read() as session:
            if not notices_wait(session, section.name, self.clock()):
                return 0
        with self.database.write() as session:
            lease = timedelta(seconds=4 * section.timeout_seconds + 60)
            rows = claim_notices(session, section.name, self.owner, self.clock(), lease, _A_MESSAGE)
        if not rows:
            return 0
        patients: dict[int, Patient] = {}
        if section.patient_data:
            with self.database.read() as session:
                patients = patients_of(session, {row.series_id for row in rows if row.series_id is not None})
        values: dict[str, Any] = {"state": NoticeState.SENT, "sent_at": self.clock(), "reason": None, "detail": None}
        fault: Retry | StartError | None = None
        try:
            self._send(rows, patients)
        except (Retry, StartError) as error:
            fault = error
        except Exception as error:
            fault = Retry("sending-failed", f"the worker failed while sending ({type(error).__name__}); see its log")
            get_log().error("notice not sent", channel=section.name, **fault_fields(error))
        if fault is not None:
            not_before = self.clock() + backoff(max(row.attempts for row in rows))
            values = {"state": NoticeState.PENDING, "not_before": not_before}
            values |= {"reason": fault.reason, "detail": cut_detail(fault.detail)}
        with self.database.write() as session:
            end_notices(session, [row.id for row in rows], self.owner, values)
        if fault is None:
            get_log().info("notices sent", channel=section.name, number=len(rows))
            if patients:
                what = f"notices of series of {counted(len(patients), 'patient')}"
                self.record(events.exported(f"notify {section.name}", None, what, section.address))
        else:
            get_log().warning("notices not sent", channel=section.name, number=len(rows), reason=fault.reason)
        return len(rows)

    def _send(self, rows: Sequence[NoticeRow], patients: dict[int, Patient]) -> None:
        notices = [_notice(row, patients.get(row.series_id or 0)) for row in rows]
        lines = [notice["text"] for notice in notices]
        text = "\n".join([*lines, "", _DISCLAIMER])
        if self.section.url is not None:
            self._post(self.section.url, {"channel": self.section.name, "text": text, "notices": notices})
        else:
            self._mail(f"brain-mri-worker: {lines[0] if len(lines) == 1 else f'{len(lines)} notices'}"[:200], text)

    def _post(self, url: str, content: dict[str, Any]) -> None:
        """POST as JSON; the answer's body is not read. Raises Retry, StartError."""
        section = self.section
        context = client_context(None, None, section.tls_authority) if section.is_encrypted else None
        headers = {}
        if section.bearer_token_variable is not None:
            headers["Authorization"] = f"Bearer {_secret(section.bearer_token_variable)}"
        try:
            with Session(context, "application/json") as session:
                answer = session.post(url, json=content, headers=headers, timeout=section.timeout_seconds, stream=True)
                answer.close()
        except requests.RequestException as error:
            cause = unreachable.cause(error)
            reason, words = ("no-answer", "does not answer")
            if cause is not None and not isinstance(error, requests.ReadTimeout):
                reason, words = unreachable.explain(cause, urlsplit(url).hostname or "", "its url")
            raise Retry(reason, f"{section.name} {words}") from None
        if not 200 <= answer.status_code < 300:
            raise Retry("not-accepted", f"{section.name} answered HTTP {status_line(answer)}")

    def _mail(self, subject: str, text: str) -> None:
        """Send an e-mail. Raises Retry, StartError."""
        section = self.section
        message = EmailMessage()
        message["From"], message["To"], message["Subject"] = section.sender, ", ".join(section.recipients), subject
        message.set_content(text)
        host, port, seconds = section.smtp_host or "", section.smtp_port, section.timeout_seconds
        context = client_context(None, None, section.tls_authority) if section.is_encrypted else None
        try:
            server = (
                smtplib.SMTP_SSL(host, port, timeout=seconds, context=context)
                if section.smtp_tls == "tls"
                else smtplib.SMTP(host, port, timeout=seconds)
            )
            with server:
                if section.smtp_tls == "starttls":
                    server.starttls(context=context)
                if section.smtp_user is not None and section.smtp_password_variable is not None:
                    server.login(section.smtp_user, _secret(section.smtp_password_variable))
                refused = server.send_message(message)
        except smtplib.SMTPResponseException as error:
            raise Retry("not-accepted", f"{section.name}: the mail server answered {error.smtp_code}") from None
        except smtplib.SMTPException as error:
            raise Retry("not-accepted", f"{section.name}: the mail server refuses ({type(error).__name__})") from None
        except OSError as error:
            reason, words = unreachable.explain(error, host, f"{host}:{port}")
            raise Retry(reason, f"{section.name} {words}") from None
        if refused:
            get_log().warning("recipients refused", channel=section.name, number=len(refused))


def _notice(row: NoticeRow, patient: Patient | None) -> dict[str, str]:
    notice = {"event": row.event, "text": row.text, "at": row.created_at.isoformat()}
    if patient is not None:
        name = " ".join(patient.patient_name.replace("^", " ").split())
        notice |= {"patient_id": patient.patient_id, "patient_name": name, "study": patient.study_instance_uid}
        notice["text"] = f"{row.text} (patient {patient.patient_id}, {name}; study {patient.study_instance_uid})"
    return notice


def _secret(variable: str) -> str:
    """Raises Retry where the environment does not have it."""
    secret = os.environ.get(variable, "").strip()
    if not secret or not secret.isprintable():
        raise Retry("token-missing", f"the environment variable {variable} holds no secret")
    return secret
