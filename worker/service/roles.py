"""The service: a supervisor, and a process for each role; they communicate only through the database.

receive   the Storage SCP, Query/Retrieve and the settling of series
infer     classification, in `inference_processes` processes, so that a codec that crashes ends only a single process
send      deliveries; queries senders for what they have of a study
web       REST API, DICOMweb, pages, /health and /metrics, monthly report

The supervisor restarts processes that die or hang. They hold a pipe to it and end with it, so that a killed worker
leaves no process behind that holds the port.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any

from worker import __version__
from worker.audit import events
from worker.audit.events import RecordEvent
from worker.audit.recorder import Recorder
from worker.config.pseudonyms import pseudonym_of
from worker.config.settings import Settings
from worker.db.engine import Database, IntegrityError
from worker.db.tables import REVISION
from worker.errors import StartError
from worker.imports import PYDICOM_COMPANIONS, without
from worker.logs import get_log
from worker.network.listening import binding_fault
from worker.process import ProcessRole, process_name
from worker.process_limits import allow_open_files, return_large_blocks
from worker.send.destinations import destinations_of
from worker.service.clock import Clock
from worker.service.fork_server import ForkServer, fork_server
from worker.service.pulse import SUPERVISED, Pulse

if TYPE_CHECKING:
    from worker.service.supervisor import Child


_RECEIVER_GRACE_SECONDS = 3.0
_PORT_SECONDS = 3.0
_WEB_FILES = 4096  # connections in a TLS handshake are not counted among those of an address, but must end soon
_EVENT_LOOP_SECONDS = 20.0  # it turns ten times a second


# --- a role ----------------------------------------------------------------------------------------------------


def run_role(role: ProcessRole, settings: Settings) -> None:
    """Run a role in this process until SIGTERM or SIGINT. Raises StartError when it cannot start."""
    stop = _stop_on_signals()
    if role is not ProcessRole.INFER:  # which fills and frees the same blocks for every series, in a single thread
        return_large_blocks()
    if os.environ.get(SUPERVISED):
        threading.Thread(target=_end_with_supervisor, name="lifeline", daemon=True).start()
    database = Database(settings.database.url, pseudonym_of(settings.privacy))
    database.require_revision()
    clock = Clock(database, shifts_arrivals=role is ProcessRole.RECEIVE)
    clock.start()
    audit = Recorder(settings, database, clock)
    audit.start()
    audit.record(events.started(role, process_name()))
    runs = {
        ProcessRole.RECEIVE: _receive,
        ProcessRole.INFER: _infer,
        ProcessRole.SEND: _send,
        ProcessRole.WEB: _web,
    }
    try:
        runs[role](settings, database, clock, stop, audit.record)
    finally:
        audit.record(events.stopped(role, process_name()))
        audit.close()
        database.close()
    if os.environ.get(SUPERVISED):
        # Everything is durable; an orderly end of the interpreter and its libraries would take seconds for nothing.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def _stop_on_signals() -> threading.Event:
    stop = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    return stop


def _end_with_supervisor() -> None:
    """End this process when the supervisor dies: standard input is a pipe from it, which closes then."""
    while os.read(sys.stdin.fileno(), 64):
        pass
    # No clean-up: the supervisor was killed, and every stage survives being killed.
    os._exit(1)


def _receive(settings: Settings, database: Database, clock: Clock, stop: threading.Event, record: RecordEvent) -> None:
    with without(*PYDICOM_COMPANIONS):  # this process never decodes pixels (ARCHITECTURE.md, invariant 5)
        from worker.receive.storage_scp import Receiver
        from worker.storage.associations import close_dead_associations
    from worker.storage.spool import remove_leftovers

    close_dead_associations(settings, database, clock(), record)
    pulse = Pulse()
    services = _query_retrieve(settings, database, clock, record)
    receiver = Receiver(settings, database, clock, record, services, pulse.part("acceptor"))
    remove_leftovers(settings.worker.data_dir)
    receiver.start()
    try:
        # Senders wait for the port, series do not wait for the first look at them: what settles them is imported now.
        from worker.service.receive_ticks import start_receive_ticks
        from worker.service.schedule import tick_now

        configure_model(settings, database, clock)
        ticks = start_receive_ticks(settings, database, clock, record, receiver.refusals)
        clock.when_set_back(partial(tick_now, ticks))
        get_log().info("receiving", port=settings.receive.port)
        with _ready(ProcessRole.RECEIVE, settings, database, clock, pulse):
            stop.wait()
        ticks.shutdown(wait=True)
    finally:
        receiver.stop(_RECEIVER_GRACE_SECONDS)


def _query_retrieve(
    settings: Settings, database: Database, clock: Clock, record: RecordEvent
) -> list[tuple[Any, Callable[..., Any]]]:
    """The handlers of Query/Retrieve, which is imported only where a peer may retrieve."""
    if not any(peer.may_retrieve for peer in settings.peer):
        return []
    with without(*PYDICOM_COMPANIONS):
        from worker.query_retrieve.scp import QueryRetrieveScp
    return QueryRetrieveScp(settings, database, record, clock).handlers()


def _infer(settings: Settings, database: Database, clock: Clock, stop: threading.Event, record: RecordEvent) -> None:
    from worker.db.studies.answering import StudySettling
    from worker.jobs.bundle_store import BundleStore
    from worker.jobs.model_pool import ModelPool
    from worker.jobs.runner import JobRunner
    from worker.jobs.studies import StudyRunner
    from worker.jobs.study_objects import StudyObjects
    from worker.process_limits import limit_decoders
    from worker.reporting.outbox import Outbox
    from worker.storage.integrity import Integrity

    configure_model(settings, database, clock, first_only=True)
    models = ModelPool(database, BundleStore(settings), process_name(), clock, settings.worker.job_memory_bytes)
    models.refresh()
    models.require_any()
    limit_decoders(settings.worker.decoder_seconds)
    destinations = destinations_of(settings)
    pulse = Pulse()
    worker = settings.worker
    lease = timedelta(seconds=worker.lease_seconds)
    study = settings.study
    settling = StudySettling(timedelta(seconds=study.quiet_seconds), timedelta(seconds=study.incomplete_seconds))
    outbox = Outbox(
        worker.data_dir,
        key_objects_to=tuple(destination.name for destination in destinations if destination.wants_key_objects),
        pictures_to=tuple(destination.name for destination in destinations if destination.is_dicom),
        not_assessed=settings.report.not_assessed,
        level=settings.report.level,
    )
    names = [destination.name for destination in destinations]
    integrity = Integrity(database, worker.data_dir, clock, record)
    runner = JobRunner(
        promise=pulse.part("jobs"),
        database=database,
        data_dir=settings.worker.data_dir,
        models=models,
        outbox=outbox,
        destinations=names,
        owner=process_name(),
        clock=clock,
        lease=lease,
        timeout=timedelta(seconds=settings.worker.job_timeout_seconds),
        attempts=settings.worker.job_attempts,
        record=record,
        studies=StudyRunner(
            database,
            worker.data_dir,
            process_name(),
            clock,
            lease=lease,
            settling=settling,
            attempts=worker.job_attempts,
            objects=StudyObjects(database, worker.data_dir, outbox, integrity, names),
            record=record,
        ),
    )
    get_log().info("ready to classify")
    with _ready(ProcessRole.INFER, settings, database, clock, pulse):
        runner.run(stop)


def _send(settings: Settings, database: Database, clock: Clock, stop: threading.Event, record: RecordEvent) -> None:
    with without(*PYDICOM_COMPANIONS):
        from worker.send.sender import Sender
    from worker.service.schedule import tick_now
    from worker.service.send_ticks import start_send_ticks

    pulse = Pulse()
    threads = [
        threading.Thread(
            target=Sender(
                destination, settings.worker.ae_title, database, settings.worker.data_dir, clock, record,
                pulse.part(destination.name),
            ).run,
            args=(stop,),
            name=f"send-{destination.name}",
        )
        for destination in destinations_of(settings)
    ]  # fmt: skip
    if settings.notify:
        from worker.send.notifier import Notifier
    for section in settings.notify:
        notifier = Notifier(section, database, clock, record, pulse.part(f"notify {section.name}"))
        threads.append(threading.Thread(target=notifier.run, args=(stop,), name=f"notify-{section.name}"))
    for thread in threads:
        thread.start()
    ticks = start_send_ticks(settings, database, clock)
    if ticks is not None:
        clock.when_set_back(partial(tick_now, ticks))
    with _ready(ProcessRole.SEND, settings, database, clock, pulse):
        stop.wait()
        for thread in threads:
            thread.join()
    if ticks is not None:
        ticks.shutdown(wait=False)  # a peer that does not answer holds up no stop


def _web(settings: Settings, database: Database, clock: Clock, stop: threading.Event, record: RecordEvent) -> None:
    import uvicorn

    from worker.service.schedule import tick_now
    from worker.service.web_server import web_config, web_listener
    from worker.service.web_ticks import start_web_ticks
    from worker.web.app import create_app

    allow_open_files(_WEB_FILES)
    listener = web_listener(settings.web.host, settings.web.port)
    pulse = Pulse()
    promise = pulse.part("event loop")

    class Server(uvicorn.Server):
        async def on_tick(self, counter: int) -> bool:
            promise(_EVENT_LOOP_SECONDS)
            return await super().on_tick(counter)

    server = Server(web_config(settings, create_app(settings, database, record, clock)))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="web")
    thread.start()
    ticks = start_web_ticks(settings, database, clock)
    clock.when_set_back(partial(tick_now, ticks))
    with _ready(ProcessRole.WEB, settings, database, clock, pulse):
        stop.wait()
    server.should_exit = True
    ticks.shutdown(wait=True)
    thread.join()


@contextmanager
def _ready(role: ProcessRole, settings: Settings, database: Database, clock: Clock, pulse: Pulse) -> Iterator[None]:
    """The context in which a role works: this process counts as alive meanwhile, on every host with this database."""
    from worker.service.heartbeat import beating

    gc.freeze()  # collections skip what is loaded by now, which would take a fifth of a report's time
    gc.enable()
    done = threading.Event()
    pulse.start_telling(done)
    try:
        with beating(database, role, timedelta(seconds=settings.worker.lease_seconds), clock, pulse.is_steady):
            yield
    finally:
        done.set()


def configure_model(
    settings: Settings, database: Database, clock: Callable[[], datetime], *, first_only: bool = False
) -> None:
    """Add the configured bundle, and activate it unless a person has activated another (docs/decisions/0006).

    `first_only`: only while no model is active, so that roles of hosts with different bundles do not alternate.
    Raises StartError for a damaged bundle.
    """
    from worker.db.models import models_in_use, set_configured_model
    from worker.inference.bundle import verified_identity
    from worker.jobs.bundle_store import BundleStore

    identity = verified_identity(BundleStore(settings).configured())
    for last_try in (False, True):
        try:
            with database.write() as session:
                if not (first_only and models_in_use(session)[0]):
                    set_configured_model(session, identity, clock())
            return
        except IntegrityError:  # another host added the same row at the same moment; now it exists
            if last_try:
                raise


# --- all roles -------------------------------------------------------------------------------------------------


def _children(settings: Settings, server: ForkServer) -> list[Child]:
    from worker.service.supervisor import Child

    roles = [ProcessRole.RECEIVE, *[ProcessRole.INFER] * settings.worker.inference_processes, ProcessRole.WEB]
    if settings.destination or settings.notify or any(peer.query for peer in settings.peer):
        roles.append(ProcessRole.SEND)
    return [Child(role, server) for role in roles]


def run_service(settings: Settings) -> int:
    """Run all roles until SIGTERM; the exit status. Raises StartError for faults that show before the start.

    It returns in each of the processes that it starts, too, when their role has ended.
    """
    server = fork_server()
    if isinstance(server, ProcessRole):
        run_role(server, settings)
        return 0
    from worker.db.models import models_in_use
    from worker.service.supervisor import SILENCE_SECONDS, Supervisor

    database = Database(settings.database.url)
    if database.revision() != REVISION:
        from worker.db.migrate import migrate

        migrate(database)
    clock = Clock(database)
    clock.start()
    configure_model(settings, database, clock)
    with database.read() as session:
        active, in_shadow = models_in_use(session)
    models = ", ".join(f"{model.name} {model.version}" for model in active)
    models += "".join(f", in shadow {model.name} {model.version}" for model in in_shadow)
    receive = settings.receive
    _require_free_port("receive", receive.host, receive.port)
    _require_free_port("web", settings.web.host, settings.web.port)
    print(_banner(settings, models), flush=True)
    gc.enable()
    silence = max(SILENCE_SECONDS, settings.worker.lease_seconds)
    status = Supervisor(_children(settings, server), database, clock, silence).run(_stop_on_signals())
    server.close()
    database.close()
    return status


def _banner(settings: Settings, models: str) -> str:
    """What a person at the terminal needs to know, with an address of the page that a browser can open."""
    web = settings.web
    shown = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(web.host, web.host)
    shown = f"[{shown}]" if ":" in shown else shown
    page = f"http{'s' if web.tls_certificate else ''}://{shown}:{web.port}"
    token = "  (its token: worker tokens add --role operate)" if web.require_token else ""
    return (
        f"brain-mri-worker {__version__}. Research use only. Ctrl-C stops.\n"
        f"  receives  as {settings.worker.ae_title} on {settings.receive.host}:{settings.receive.port}\n"
        f"  model     {models}\n"
        f"  reports   to {', '.join(destination.name for destination in settings.destination) or 'nobody'}\n"
        f"  page      {page}/{token}\n"
        f"  health    {page}/health"
    )


def _require_free_port(section: str, host: str, port: int) -> None:
    """Raises StartError when another program holds the port, before any process is started.

    Waits a moment, because a worker that was just killed may still hold the port.
    """
    deadline = time.monotonic() + _PORT_SECONDS
    while fault := binding_fault(section, host, port):
        if time.monotonic() > deadline:
            raise StartError("port-unavailable", fault)
        time.sleep(0.1)
