"""Who may connect: AE titles, networks, TLS with certificates on both sides, with DCMTK as the peer."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.testbed import dcmtk
from tests.testbed.certificates import Certificates, make_certificates
from tests.testbed.instances import write_series
from tests.testbed.receiver import receiving
from tests.testbed.waiting import wait_until
from worker.audit.messages import AuditEvent, EventOutcome
from worker.db.engine import Database
from worker.db.series_status import unfinished_counts
from worker.errors import Retry, StartError
from worker.send.destinations.c_store import CStoreDestination
from worker.tls import server_context

pytestmark = pytest.mark.skipif(
    not (dcmtk.installed() and dcmtk.installed("openssl")), reason="DCMTK or openssl is not installed"
)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls"))


def _kept(database: Database) -> int:
    with database.read() as session:
        return sum(unfinished_counts(session)["series"].values())


def _tls(certificates: Certificates) -> dict[str, Path]:
    certificate, key = certificates.files("peer")
    return {"tls_certificate": certificate, "tls_key": key, "tls_authority": certificates.authority}


def _refusal(told: list[AuditEvent]) -> tuple[str | None, str]:
    """Reason and calling AE title of the only refusal in the audit trail."""
    [event] = [event for event in told if event.outcome != EventOutcome.SUCCESS]
    assert (event.id.meaning, event.type and event.type.meaning) == ("Security Alert", "Node Authentication")
    [requestor] = [participant for participant in event.participants if participant.is_requestor]
    assert requestor.address == "127.0.0.1"
    return event.description, requestor.user_id


def test_an_address_outside_the_networks_gets_nothing(tmp_path: Path) -> None:
    told: list[AuditEvent] = []
    with (
        receiving(tmp_path, told.append, allowed_networks=("10.0.0.0/8",)) as (port, _database),
        pytest.raises(RuntimeError, match="storescu exited"),
    ):
        dcmtk.storescu(port, write_series(tmp_path / "series", 1))
    assert list((tmp_path / "data").rglob("*.dcm")) == []
    assert _refusal(told) == ("network", "unknown")


def test_an_address_inside_the_networks_is_served(tmp_path: Path) -> None:
    with receiving(tmp_path, allowed_networks=("10.0.0.0/8", "127.0.0.0/8")) as (port, database):
        dcmtk.storescu(port, write_series(tmp_path / "series", 1))
        assert _kept(database) == 1


def test_another_called_ae_title_is_refused_where_that_is_asked_for(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "series", 1)
    told: list[AuditEvent] = []
    with receiving(tmp_path, told.append, require_called_ae_title=True) as (port, database):
        with pytest.raises(RuntimeError, match=r"[Cc]alled AE Title"):
            dcmtk.storescu(port, paths, called="SOMEBODY")
        assert _kept(database) == 0
        dcmtk.storescu(port, paths)
        assert _kept(database) == 1
    assert _refusal(told) == ("Called AE title not recognised", "PACS")


def test_another_calling_ae_title_is_refused_where_there_is_a_list(tmp_path: Path) -> None:
    told: list[AuditEvent] = []
    with receiving(tmp_path, told.append, allowed_peers=("PACS",)) as (port, _database):
        with pytest.raises(RuntimeError, match=r"[Cc]alling AE Title"):
            dcmtk.echoscu(port, calling="STRANGER")
        dcmtk.echoscu(port)
    assert _refusal(told) == ("Calling AE title not recognised", "STRANGER")
    [connected] = [event for event in told if event.outcome == EventOutcome.SUCCESS]
    assert [participant.user_id for participant in connected.participants] == ["AI_WORKER", "PACS"]


def test_dcmtk_sends_over_tls_with_a_certificate_of_the_authority(tmp_path: Path, certificates: Certificates) -> None:
    certificate, key = certificates.files("peer")
    with receiving(tmp_path, **_tls(certificates)) as (port, database):
        options = ["+tls", str(key), str(certificate), "+cf", str(certificates.authority)]
        dcmtk.storescu(port, write_series(tmp_path / "series", 3), *options)
        assert _kept(database) == 1


@pytest.mark.parametrize("who", ["stranger", "anonymous", "plain"])
def test_without_a_certificate_of_the_authority_nothing_is_received(
    tmp_path: Path, certificates: Certificates, who: str
) -> None:
    certificate, key = certificates.files("stranger")
    options = {
        "stranger": ["+tls", str(key), str(certificate), "-ic"],
        "anonymous": ["+tla", "-ic"],
        "plain": [],
    }[who]
    paths = write_series(tmp_path / "series", 1)
    told: list[AuditEvent] = []
    with receiving(tmp_path, told.append, **_tls(certificates)) as (port, database):
        with pytest.raises(RuntimeError, match="storescu exited"):
            dcmtk.storescu(port, paths, *options)
        assert _kept(database) == 0
        wait_until(lambda: told, "the refusal to be audited")
    assert _refusal(told) == ("tls", "unknown")


def test_our_side_connects_to_a_tls_peer_and_only_to_one_it_can_verify(
    tmp_path: Path, certificates: Certificates
) -> None:
    with receiving(tmp_path, **_tls(certificates)) as (port, _):
        place = {"name": "peer", "ae_title": "AI_WORKER", "host": "127.0.0.1", "port": port, "timeout_seconds": 5}
        CStoreDestination(**place, **_tls(certificates)).probe("AI_WORKER")
        other = _tls(certificates) | {"tls_authority": certificates.folder / "stranger.pem"}
        for wrong in (CStoreDestination(**place, **other), CStoreDestination(**place)):
            with pytest.raises(Retry):
                wrong.probe("AI_WORKER")


def test_a_missing_or_useless_file_is_said_at_start(tmp_path: Path, certificates: Certificates) -> None:
    _certificate, key = certificates.files("peer")
    with pytest.raises(StartError, match="there is no"):
        server_context(tmp_path / "none.pem", key, certificates.authority)
    (tmp_path / "bad.pem").write_text("bad")
    with pytest.raises(StartError, match="cannot be used"):
        server_context(tmp_path / "bad.pem", key, certificates.authority)
