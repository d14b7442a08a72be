"""Every path of the configuration is resolved against the folder of its file, whichever section it is in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import pytest
from pydantic import BaseModel

from worker.config.paths import ConfigPath, relative_to, sqlite_path
from worker.config.sections import DatabaseSection, PeerSection, ReceiveSection, WorkerSection
from worker.config.settings import Settings, load_settings, with_kinds
from worker.send.destinations import kinds


def sections(model: type[BaseModel], seen: set[type[BaseModel]] | None = None) -> Iterator[type[BaseModel]]:
    """A model and every model that its fields hold."""
    seen = set() if seen is None else seen
    if model in seen:
        return
    seen.add(model)
    yield model
    for hint in get_type_hints(model).values():
        for part in parts(hint):
            if isinstance(part, type) and issubclass(part, BaseModel):
                yield from sections(part, seen)


def parts(hint: Any) -> Iterator[Any]:
    """The types in a type; an annotated one as it stands, with its annotation."""
    yield hint
    if get_origin(hint) is not Annotated:
        for part in get_args(hint):
            yield from parts(part)


SECTIONS = sorted(list({*sections(with_kinds(kinds())), *kinds()}), key=lambda section: section.__name__)


def test_every_section_is_looked_at() -> None:
    assert {WorkerSection, ReceiveSection, PeerSection, DatabaseSection, *kinds()} <= set(SECTIONS)


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.__name__)
def test_every_path_of_a_section_is_a_config_path(section: type[BaseModel]) -> None:
    hints = get_type_hints(section, include_extras=True)
    plain = [name for name in section.model_fields if any(part is Path for part in parts(hints[name]))]
    assert plain == []


def test_the_paths_that_there_are() -> None:
    found = {
        f"{section.__name__}.{name}"
        for section in SECTIONS
        for name in section.model_fields
        if ConfigPath in list(parts(get_type_hints(section, include_extras=True)[name]))
    }
    assert {"WorkerSection.data_dir", "WorkerSection.bundle", "AuditSection.folder", "WebSection.tls_key"} < found
    assert {"PeerSection.tls_authority", "StowDestination.bearer_token_file"} < found


def test_defaults_and_given_paths_start_at_the_file_and_absolute_ones_stay(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(
        "[worker]\nbundle = 'bundle'\n[audit]\nfolder = '/elsewhere/audit'\n"
        "[receive]\ntls_certificate = 'tls/worker.pem'\ntls_key = '../key.pem'\ntls_authority = '/authority.pem'\n"
        "[[peer]]\nae_title = 'A'\nhost = 'h'\nport = 1\n"
        "tls_certificate = 'a'\ntls_key = 'b'\ntls_authority = 'c'\n"
    )
    settings = load_settings(file, kinds())
    assert settings.worker.data_dir == tmp_path / "var"
    assert settings.worker.bundle == tmp_path / "bundle"
    assert settings.audit.folder == Path("/elsewhere/audit")
    assert settings.receive.tls_certificate == tmp_path / "tls/worker.pem"
    assert settings.receive.tls_key == tmp_path / "../key.pem"
    assert settings.receive.tls_authority == Path("/authority.pem")
    assert settings.peer[0].tls_authority == tmp_path / "c"
    assert settings.database.url == f"sqlite:///{tmp_path / 'var/worker.db'}"


def test_a_path_from_the_environment_starts_at_the_file_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKER__WORKER__DATA_DIR", "here")
    (tmp_path / "config.toml").write_text("")
    assert load_settings(tmp_path / "config.toml", kinds()).worker.data_dir == tmp_path / "here"


def test_without_a_file_paths_start_at_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_settings(None, kinds()).worker.data_dir == tmp_path / "var"


def test_outside_a_file_paths_stay_as_given(tmp_path: Path) -> None:
    with relative_to(tmp_path):
        assert WorkerSection().data_dir == tmp_path / "var"
    assert Settings().worker.data_dir == Path("var")
    assert WorkerSection(data_dir=Path("there")).data_dir == Path("there")


def test_another_database_has_no_file(tmp_path: Path) -> None:
    url = "postgresql+psycopg://worker@db/worker"
    assert sqlite_path(url) is None
    with relative_to(tmp_path):
        assert DatabaseSection(url=url).url == url
        assert sqlite_path(DatabaseSection(url="sqlite:///a.db").url) == tmp_path / "a.db"
        assert DatabaseSection(url="sqlite:////a.db").url == "sqlite:////a.db"
