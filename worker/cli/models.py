"""`worker models`: which bundles are there, which of them classify, and which run in shadow; `worker routes`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.audit import events
from worker.cli.context import EXIT_FAULT, ConfigOption, Format, FormatOption, audited, open_database, settings_from
from worker.errors import StartError

if TYPE_CHECKING:
    from worker.config.routing import RouteSection
    from worker.config.settings import Settings
    from worker.db.engine import Database
    from worker.db.tables import ModelRow

models_app = typer.Typer(no_args_is_help=True, help="Models: add, try in shadow, compare, activate, roll back.")
routes_app = typer.Typer(no_args_is_help=True, help="The [[route]] rules: which models a series is for.")
NameArgument = Annotated[str, typer.Argument(help="The model's name.")]
VersionArgument = Annotated[str, typer.Argument(help="Its version, or the beginning of its bundle hash.")]


@models_app.command("add", epilog="Example: worker models add /data/bundles/brain-mri-tumour-0.3.0")
def add(
    bundle: Annotated[Path, typer.Argument(help="The folder of a model bundle, as docs/bundle.md describes it.")],
    config: ConfigOption = None,
) -> None:
    """Verify a bundle (hashes, what it may hold, golden cases) and keep a copy of it; it classifies nothing yet."""
    from worker.db import models
    from worker.jobs.bundle_store import BundleStore

    with audited(config) as (settings, database, record, user):
        store = BundleStore(settings)
        identity = store.load(bundle).identity
        store.add(bundle)
        with database.write() as session:
            row, is_new = models.add_model(session, identity, user, datetime.now(UTC))
        if is_new:
            record(events.model_changed(user, None, "added", row.name, row.version, row.sha256))
    typer.echo(f"{_named(row)} {'is added' if is_new else f'is here already, {row.state}'}; bundle hash {row.sha256}")


@models_app.command("list", epilog="Example: worker models list --format json")
def list_models(format: FormatOption = Format.TABLE, config: ConfigOption = None) -> None:
    """Every model, the newest first: its state, since when and by whom, and where it could not be loaded."""
    from worker.cli.output import print_models
    from worker.db.views.model_comparison import model_statuses

    with open_database(config).read() as session:
        found = model_statuses(session)
    print_models(found, format)


@models_app.command("shadow", epilog="Example: worker models shadow brain-mri-tumour 0.3.0")
def shadow(name: NameArgument, version: VersionArgument, config: ConfigOption = None) -> None:
    """Let a model classify every eligible series too: its results are kept, nothing of them is sent or shown."""
    from worker.db import models

    with audited(config) as (settings, database, record, user):
        _verified(settings, database, name, version)
        with database.write() as session:
            row = models.find_model(session, name, version)
            models.shadow_model(session, row.id, user, datetime.now(UTC))
        record(events.model_changed(user, None, "in shadow", row.name, row.version, row.sha256))
    typer.echo(f"{_named(row)} runs in shadow")


@models_app.command("activate", epilog="Example: worker models activate brain-mri-tumour 0.3.0")
def activate(
    name: NameArgument,
    version: VersionArgument,
    beside: Annotated[
        bool, typer.Option("--beside", help="Models of other names stay active too; [[route]] tells them apart.")
    ] = False,
    config: ConfigOption = None,
) -> None:
    """Let a model answer from now on, in the place of what was active; the service goes on running."""
    from worker.db import models
    from worker.jobs.bundle_store import BundleStore

    with audited(config) as (settings, database, record, user):
        _verified(settings, database, name, version)
        # What is left must be there to come back to, also when another bundle is configured or installed one day.
        store = BundleStore(settings)
        store.add(store.configured())
        with database.write() as session:
            row = models.find_model(session, name, version)
            models.activate_model(session, row.id, user, datetime.now(UTC), beside)
            active, _ = models.models_in_use(session)
        record(events.model_changed(user, None, "activated", row.name, row.version, row.sha256))
    typer.echo(f"active: {', '.join(_named(one) for one in active)}")


@models_app.command("retire", epilog="Example: worker models retire brain-mri-tumour 0.3.0")
def retire(name: NameArgument, version: VersionArgument, config: ConfigOption = None) -> None:
    """Take a model out of the shadow, or from among several active ones; what waits for it is finished."""
    from worker.db import models

    with audited(config) as (_, database, record, user):
        with database.write() as session:
            row = models.find_model(session, name, version)
            models.retire_model(session, row.id, user, datetime.now(UTC))
        record(events.model_changed(user, None, "retired", row.name, row.version, row.sha256))
    typer.echo(f"{_named(row)} is retired")


@models_app.command("compare", epilog="Example: worker models compare brain-mri-tumour:0.3.0 brain-mri-tumour:0.4.0")
def compare_models(
    first: Annotated[str, typer.Argument(help="NAME:VERSION")],
    second: Annotated[str, typer.Argument(help="NAME:VERSION")],
    format: FormatOption = Format.TABLE,
    config: ConfigOption = None,
) -> None:
    """What two models said of the same input sets, one of them in shadow for example; and what readers said."""
    from worker.cli.output import print_comparison
    from worker.db import models
    from worker.db.views.model_comparison import compare_models

    with open_database(config).read() as session:
        found = compare_models(
            session, models.find_model_named(session, first), models.find_model_named(session, second)
        )
    print_comparison(found, format)


@models_app.command("rollback", epilog="Example: worker models rollback")
def roll_back(config: ConfigOption = None) -> None:
    """Undo the last activation; again, the one before it."""
    from worker.db import models

    with audited(config) as (_, database, record, user):
        with database.write() as session:
            active = models.undo_activation(session, user, datetime.now(UTC))
        for row in active:
            record(events.model_changed(user, None, "active after a rollback", row.name, row.version, row.sha256))
    typer.echo(f"active: {', '.join(_named(one) for one in active)}")


@models_app.command("remove", epilog="Example: worker models remove brain-mri-tumour 0.3.0")
def remove(name: NameArgument, version: VersionArgument, config: ConfigOption = None) -> None:
    """Delete the copy of a bundle that is not in use and for which nothing waits; its results stay."""
    from worker.db import models
    from worker.jobs.bundle_store import BundleStore

    with audited(config) as (settings, database, record, user):
        with database.write() as session:
            row = models.find_model(session, name, version)
            models.remove_model(session, row.id, user, datetime.now(UTC))
        BundleStore(settings).remove(row.sha256)  # after the commit: a bundle that nobody asks for harms nobody
        record(events.model_changed(user, None, "removed", row.name, row.version, row.sha256))
    typer.echo(f"{_named(row)} is removed")


def _verified(settings: Settings, database: Database, name: str, version: str) -> None:
    """Raises StartError unless the model's bundle runs on this host as it should."""
    from worker.db import models
    from worker.jobs.bundle_store import BundleStore

    with database.read() as session:
        row = models.find_model(session, name, version)
    if row.state == "removed":
        raise StartError("model-removed", f"{_named(row)} was removed; worker models add")
    store = BundleStore(settings)
    store.load(store.require(row.sha256))


def _named(row: ModelRow) -> str:
    return f"{row.name} {row.version}"


@routes_app.command("test", epilog="Example: worker routes test /data/series --config config.toml")
def try_routes(
    path: Annotated[Path, typer.Argument(help="A DICOM file, or a folder of them (searched through).")],
    config: ConfigOption = None,
) -> None:
    """Say which rule decides about each series, and why the others do not; without the service or its database."""
    from worker.config import routing
    from worker.ops.classify_folder import read_folder
    from worker.receive.settle import refusal

    settings, _ = settings_from(config)
    if not settings.route:
        typer.echo("the configuration has no [[route]]: the active models are asked about every eligible series")
    series, unread = read_folder(path, settings.route)
    for fault in unread:
        typer.echo(f"not read: {fault.path.name}: {fault.detail}", err=True)
    for members in series.values():
        attributes = [new.attributes for _, new in members]
        refused = refusal(attributes, settings.eligibility)
        decides = routing.decide(settings.route, attributes)
        typer.echo(f"{members[0][0]} (images: {len(members)}): {_outcome(decides)}")
        if refused is not None:
            typer.echo(f"  not eligible, so no rule is asked: {refused.detail}")
        for number, route in enumerate(settings.route, 1):
            typer.echo(f"  {number} '{route.name}': {_standing(route, decides, attributes)}")
    if unread or not series:
        raise typer.Exit(EXIT_FAULT)


def _outcome(route: RouteSection | None) -> str:
    if route is None:
        return "no rule matches; the active models"
    return f"refused: {route.refuse}" if route.refuse is not None else ", ".join(route.models)


def _standing(route: RouteSection, decides: RouteSection | None, attributes: Sequence[Mapping[str, Any]]) -> str:
    from worker.config import routing

    if route is decides:
        return "matches and decides"
    if decides is not None and routing.matches(route, attributes):
        return f"matches too, but '{decides.name}' comes first"
    whys, images = [], routing.images(attributes)
    what = "images" if len(images) == len(attributes) else "kinds of frames"
    for condition, number in routing.failing(route, attributes):
        why = f"{condition} does not hold for {number} of {len(images)} {what}"
        if not routing.may_name_a_patient(condition.attribute):
            values = {value for one in images for value in one["values"].get(condition.attribute, ())}
            why += f" (here: {', '.join(sorted(values)) or 'absent'})"
        whys.append(why)
    return "; ".join(whys) or "no single image fulfils all its conditions"
