from __future__ import annotations

from pathlib import Path

import pytest

from worker.config.settings import Settings, load_settings
from worker.errors import StartError
from worker.send.destinations import kinds
from worker.send.destinations.fhir import FhirDestination
from worker.send.destinations.stow import StowDestination


def _load(tmp_path: Path, text: str) -> Settings:
    file = tmp_path / "config.toml"
    file.write_text(text)
    return load_settings(file, kinds())


def test_the_shipped_file_holds_only_known_keys_and_the_defaults() -> None:
    shipped = load_settings(Path(__file__).parents[3] / "config.toml", kinds())
    assert shipped.receive == Settings().receive.model_copy(update={"allowed_peers": ()})
    assert shipped.eligibility == Settings().eligibility


def test_every_commented_key_of_the_shipped_file_is_known_and_has_its_default(tmp_path: Path) -> None:
    shipped = (Path(__file__).parents[3] / "config.toml").read_text()
    lines = [
        line.removeprefix("# ")
        for line in shipped.splitlines()
        if " = " in line or "[" in line[:4] or line == "# ]" or line.startswith('#   "')
    ]
    left_out = ("bundle =", "override", "tls_", "syslog_")  # syslog goes by TLS, whose files do not exist
    settings = _load(tmp_path, "\n".join(line for line in lines if not any(word in line for word in left_out)))
    plain = Settings()
    assert settings.receive == plain.receive
    assert settings.eligibility == plain.eligibility
    assert settings.worker.model_copy(update={"data_dir": Path("var")}) == plain.worker
    assert [(type(section).__name__, section.name) for section in settings.destination] == [
        ("CStoreDestination", "pacs"),
        ("StowDestination", "archive"),
        ("FhirDestination", "ehr"),
    ]
    assert [(section.ae_title, section.query) for section in settings.peer] == [("ORTHANC", False)]
    assert [section.name for section in settings.notify if not section.patient_data] == ["on-call", "mail"]


def test_unknown_key_names_the_nearest_known_one(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"unknown key 'receive.prot' \(did you mean 'port'\?\)"):
        _load(tmp_path, "[receive]\nprot = 1")


def test_unknown_section_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"unknown key 'recieve' \(did you mean 'receive'\?\)"):
        _load(tmp_path, "[recieve]\nport = 1")


def test_environment_overrides_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKER__RECEIVE__PORT", "104")
    assert _load(tmp_path, "[receive]\nport = 11113\nquiet_seconds = 3").receive.port == 104


def test_lists_and_sections_come_from_the_environment_as_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKER__RECEIVE__ALLOWED_PEERS", '["A", "B"]')
    monkeypatch.setenv("worker__receive__port", "105")
    monkeypatch.setenv("WORKER__RECEIVE", '{"port": 104, "quiet_seconds": 4}')
    monkeypatch.setenv("WORKER__DESTINATION", '[{"name": "a", "url": "https://h/dicom-web"}]')
    settings = _load(tmp_path, '[receive]\nhost = "127.0.0.1"\nallowed_peers = ["C"]')
    receive = settings.receive
    assert (receive.host, receive.port, receive.quiet_seconds) == ("127.0.0.1", 105, 4)
    assert receive.allowed_peers == ("A", "B")
    assert [type(section) for section in settings.destination] == [StowDestination]


@pytest.mark.parametrize(
    ("name", "value", "fault"),
    [
        ("WORKER__RECEIVE__PROT", "104", r"unknown environment variable WORKER__RECEIVE__PROT \(did you mean 'port'"),
        ("WORKER__RECIEVE__PORT", "104", r"did you mean 'receive'"),
        ("WORKER__RECEIVE__PORT__X", "104", r"unknown environment variable WORKER__RECEIVE__PORT__X"),
        ("WORKER__PEER__HOST", "h", r"WORKER__PEER__HOST: give WORKER__PEER"),
        ("WORKER__RECEIVE__ALLOWED_PEERS", "SECRET", r"WORKER__RECEIVE__ALLOWED_PEERS: give a list as JSON"),
        ("WORKER__RECEIVE", "3", r"WORKER__RECEIVE: give an object as JSON"),
        ("WORKER__PEER", "{}", r"WORKER__PEER: give a list as JSON"),
        ("WORKER__RECEIVE__PORT", "SECRET", r"'receive.port'"),
    ],
)
def test_a_wrong_environment_variable_is_refused_without_its_value(
    name: str, value: str, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(StartError, match=fault) as refused:
        _load(tmp_path, "")
    assert "SECRET" not in refused.value.detail


def test_relative_paths_start_at_the_file(tmp_path: Path) -> None:
    settings = _load(tmp_path, '[worker]\ndata_dir = "here"')
    assert settings.worker.data_dir == tmp_path / "here"
    assert settings.database.url == f"sqlite:///{tmp_path / 'var/worker.db'}"


def test_a_destination_with_a_url_is_a_dicomweb_server(tmp_path: Path) -> None:
    text = "[[destination]]\nname='a'\nurl='https://h/dicom-web/'\nbearer_token_file='token'\ntls_authority='ca.pem'"
    [destination] = _load(tmp_path, text).destination
    assert isinstance(destination, StowDestination)
    assert (destination.url, destination.bearer_token_file) == ("https://h/dicom-web", tmp_path / "token")
    assert destination.tls_authority == tmp_path / "ca.pem"


def test_a_destination_with_fhir_is_a_fhir_server(tmp_path: Path) -> None:
    text = "[[destination]]\nname='a'\nurl='https://h/fhir'\nfhir=true\nbearer_token_file='token'"
    [destination] = _load(tmp_path, text).destination
    assert isinstance(destination, FhirDestination)
    assert (destination.url, destination.bearer_token_file) == ("https://h/fhir", tmp_path / "token")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[receive]\nport = 70000", "receive.port"),
        ("[worker]\nae_title = 'SEVENTEEN_LETTERS'", "16 ASCII characters"),
        ("[worker]\nengine = 'onnx'", "worker.engine"),
        ("[receive", "not valid TOML"),
        ("[[destination]]\nname = 'a'\nae_title = 'A'\nhost = 'h'", "destination.0.port"),
        ("[[destination]]\nname='a'\nae_title='A'\nhost='h'\nport=1\n" * 2, "same name"),
        ("[[destination]]\nname='a'\nurl='ftp://h'", "destination.0.url"),
        ("[[destination]]\nname='a'\nurl='https://u:p@h/dicom-web'", "no user or password"),
        ("[[destination]]\nname='a'\nurl='https://h'\ntls_key='k'", "tls_certificate and tls_key together"),
        ("[[destination]]\nname='a'\nurl='http://h'\ntls_authority='a'", "need an https URL"),
        ("[[destination]]\nname='a'\nurl='http://h'\nbearer_token_file='t'", "by https only"),
        ("[[destination]]\nname='a'\nurl='https://h'\nbearer_token = 't'", "did you mean 'bearer_token_file'?"),
        ("[[destination]]\nname='a'\nfhir=true", "'destination.0.url'"),
        ("[[destination]]\nname='a'\nfhir=false\nurl='https://h'", "'destination.0.fhir'"),
        (
            "[[destination]]\nname='a'\nfhir=true\nurl='https://h'\nkey_objects=true",
            "unknown key 'destination.0.key_obj",
        ),
        ("[[peer]]\nae_title='A'\nhost='h'\nport=1\n" * 2, "same ae_title"),
        ("[[peer]]\nae_title='A'\nhost='h'\nport=1\nqerry=true", "did you mean 'query'?"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_the_key(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(StartError) as error:
        _load(tmp_path, text)
    assert said in error.value.detail
    assert "\n" not in error.value.detail


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a = " + "[" * 100_000, "holds a value that no setting can have"),
        ("[receive]\nport = " + "9" * 10_000, "holds a value that no setting can have"),
        ("# " + "a" * (1 << 20), "exceeds 1024 KiB"),
        ("[worker]\n" + "".join(f"k{number} = 1\n" for number in range(1000)), "; and 990 more"),
        ("[worker]\nae_title = 'A\0'", "not valid TOML"),
    ],
)
def test_a_file_that_nobody_means_is_refused_in_a_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(StartError) as error:
        _load(tmp_path, text)
    assert said in error.value.detail
    assert len(error.value.detail) < 6000


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="no configuration file"):
        load_settings(tmp_path / "none.toml", kinds())
