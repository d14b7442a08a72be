"""`worker models`: add bundles, run them in shadow, compare, activate, roll back and remove them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from worker.audit import events
from worker.cli.context import ConfigOption, Format, FormatOption, audited, open_database, settings_from
from worker.errors import StartError

if TYPE_CHECKING:
    from worker.config.settings import Settings
    from worker.db.engine import Database
    from worker.db.tables import ModelRow
    from worker.db.views.model_comparison import Comparison
    from worker.ops.compare_studies import ComparedModel

commands = typer.Typer(no_args_is_help=True, help="Models: add, run in shadow, compare, activate, roll back.")
NameArgument = Annotated[str, typer.Argument(help="The model's name.")]
VersionArgument = Annotated[str, typer.Argument(help="Its version, or the first digits of its bundle hash.")]


@commands.command("add", epilog="Example: worker models add /data/bundles/brain-mri-tumour-0.3.0")
def add(
    bundle: Annotated[Path, typer.Argument(help="The folder of a model bundle, as docs/bundle.md describes it.")],
    config: ConfigOption = None,
) -> None:
    """Verify a bundle (hashes, permitted content, golden cases) and store a copy; it classifies nothing yet."""
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
    typer.echo(f"{_title(row)} {'is added' if is_new else f'was added before, {row.state}'}; bundle hash {row.sha256}")


@commands.command("list", epilog="Example: worker models list --format json")
def list_models(format: FormatOption = Format.TABLE, config: ConfigOption = None) -> None:
    """List the models, newest first: state, since when and by whom, and hosts that could not load it."""
    from worker.cli.output import print_models
    from worker.db.views.model_comparison import model_statuses

    with open_database(config).read() as session:
        models = model_statuses(session)
    print_models(models, format)


@commands.command("shadow", epilog="Example: worker models shadow brain-mri-tumour 0.3.0")
def shadow(name: NameArgument, version: VersionArgument, config: ConfigOption = None) -> None:
    """Run a model in shadow: it classifies every eligible series; its results are stored, not sent and not shown."""
    from worker.db import models

    with audited(config) as (settings, database, record, user):
        _verified(settings, database, name, version)
        with database.write() as session:
            row = models.find_model(session, name, version)
            models.shadow_model(session, row.id, user, datetime.now(UTC))
        record(events.model_changed(user, None, "in shadow", row.name, row.version, row.sha256))
    typer.echo(f"{_title(row)} runs in shadow")


@commands.command("activate", epilog="Example: worker models activate brain-mri-tumour 0.3.0")
def activate(
    name: NameArgument,
    version: VersionArgument,
    beside: Annotated[
        bool, typer.Option("--beside", help=r"Keep models of other names active; [\[route]] rules choose between them.")
    ] = False,
    config: ConfigOption = None,
) -> None:
    """Activate a model: it reports from now on. The service keeps running."""
    from worker.db import models
    from worker.jobs.bundle_store import BundleStore

    with audited(config) as (settings, database, record, user):
        _verified(settings, database, name, version)
        # A rollback needs the replaced bundle, even after another bundle was configured or installed.
        store = BundleStore(settings)
        store.add(store.configured())
        with database.write() as session:
            row = models.find_model(session, name, version)
            models.activate_model(session, row.id, user, datetime.now(UTC), beside)
            active, _ = models.models_in_use(session)
        record(events.model_changed(user, None, "activated", row.name, row.version, row.sha256))
    typer.echo(f"active: {', '.join(map(_title, active))}")


@commands.command("retire", epilog="Example: worker models retire brain-mri-tumour 0.3.0")
def retire(name: NameArgument, version: VersionArgument, config: ConfigOption = None) -> None:
    """Stop using a model that runs in shadow, or one of several active ones; its queued jobs are still done."""
    from worker.db import models

    with audited(config) as (_, database, record, user):
        with database.write() as session:
            row = models.find_model(session, name, version)
            models.retire_model(session, row.id, user, datetime.now(UTC))
        record(events.model_changed(user, None, "retired", row.name, row.version, row.sha256))
    typer.echo(f"{_title(row)} is retired")


@commands.command("compare", epilog="Example: worker models compare brain-mri-tumour:0.3.0 brain-mri-tumour:0.4.0")
def compare_models(
    first: Annotated[str, typer.Argument(help="NAME:VERSION")],
    second: Annotated[str, typer.Argument(help="NAME:VERSION")],
    format: FormatOption = Format.TABLE,
    config: ConfigOption = None,
) -> None:
    """Compare two models' results on the same series with each other and with the readers' findings, and on studies.

    For studies both bundles have to be on this host, as each says how the answers for the series count together.
    """
    from worker.db import models
    from worker.db.views.model_comparison import compare_models
    from worker.ops.compare_studies import compare_studies

    settings, _ = settings_from(config)
    with open_database(config).read() as session:
        rows = [models.find_model_named(session, name) for name in (first, second)]
        comparison = compare_models(session, *rows)
        compared = [_compared(settings, row) for row in rows]
        if compared[0] is None or compared[1] is None:
            typer.echo("note: studies are not compared, as a bundle of the two is not on this host", err=True)
            studies = None
        else:
            studies = compare_studies(session, compared[0], compared[1])
    _print_comparison(comparison, studies, format)


def _compared(settings: Settings, row: ModelRow) -> ComparedModel | None:
    """A model as its bundle describes it; None where this host has no such bundle."""
    from worker.inference.bundle import load_bundle
    from worker.jobs.bundle_store import BundleStore
    from worker.ops.compare_studies import ComparedModel

    try:
        bundle = load_bundle(BundleStore(settings).require(row.sha256))
    except StartError:
        return None
    return ComparedModel(row.id, bundle.identity, bundle.study)


@commands.command("rollback", epilog="Example: worker models rollback")
def roll_back(config: ConfigOption = None) -> None:
    """Undo the last activation; repeated, the activation before it."""
    from worker.db import models

    with audited(config) as (_, database, record, user):
        with database.write() as session:
            active = models.undo_activation(session, user, datetime.now(UTC))
        for row in active:
            record(events.model_changed(user, None, "active after a rollback", row.name, row.version, row.sha256))
    typer.echo(f"active: {', '.join(map(_title, active))}")


@commands.command("remove", epilog="Example: worker models remove brain-mri-tumour 0.3.0")
def remove(name: NameArgument, version: VersionArgument, config: ConfigOption = None) -> None:
    """Delete the copy of a bundle that is neither in use nor needed by a queued job; its results stay."""
    from worker.db import models
    from worker.jobs.bundle_store import BundleStore

    with audited(config) as (settings, database, record, user):
        with database.write() as session:
            row = models.find_model(session, name, version)
            models.remove_model(session, row.id, user, datetime.now(UTC))
        BundleStore(settings).remove(row.sha256)  # after the commit: a bundle that is left over does no harm
        record(events.model_changed(user, None, "removed", row.name, row.version, row.sha256))
    typer.echo(f"{_title(row)} is removed")


def _verified(settings: Settings, database: Database, name: str, version: str) -> None:
    """Verify that this host has the model's bundle and that it passes its golden cases. Raises StartError."""
    from worker.db import models
    from worker.jobs.bundle_store import BundleStore

    with database.read() as session:
        row = models.find_model(session, name, version)
    if row.state == "removed":
        raise StartError("model-removed", f"{_title(row)} was removed; add it again with worker models add")
    store = BundleStore(settings)
    store.load(store.require(row.sha256))


def _title(row: ModelRow) -> str:
    return f"{row.name} {row.version}"


def _print_comparison(comparison: Comparison, studies: Comparison | None, format: str) -> None:
    """Print the agreement of two models, on studies too, then of each with the readers; in CSV the confusion matrix."""
    import json

    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from worker.cli.output import console, print_rows
    from worker.db.views.json_values import json_value

    if format == "json":
        print(json.dumps(json_value(comparison) | {"studies": json_value(studies)}, indent=2, ensure_ascii=False))
        return
    if format == "csv":
        print_rows("", comparison.confusion, format)
        return
    out = console()
    out.print(f"A  {comparison.first}, not assessed: {comparison.first_not_assessed}")
    out.print(f"B  {comparison.second}, not assessed: {comparison.second_not_assessed}")
    out.print(
        f"input sets that both models processed: {comparison.n}; both classified: {comparison.classified_by_both}"
    )
    if comparison.agreement is not None:
        out.print(f"agreement: {comparison.agree} of {comparison.classified_by_both}, {comparison.agreement:.1%}")
    table = Table(title="A in rows, B in columns", box=SIMPLE_HEAD, pad_edge=False)
    counts = {(cell.first, cell.second): cell.n for cell in comparison.confusion}
    columns = sorted({cell.second for cell in comparison.confusion})
    for name in ("", *columns):
        table.add_column(name, justify="left" if not name else "right")
    for row in sorted({cell.first for cell in comparison.confusion}):
        table.add_row(row, *(str(counts.get((row, column), 0)) for column in columns))
    if comparison.confusion:
        out.print(table)
    if studies is not None and studies.n:
        shared = f", {studies.agreement:.1%}" if studies.agreement is not None else ""
        out.print(
            f"studies that both models processed: {studies.n}; agreement: {studies.agree} of "
            f"{studies.classified_by_both}{shared}; not assessed: A {studies.first_not_assessed}, "
            f"B {studies.second_not_assessed}"
        )
    for what, compared in (("series", comparison), *([("studies", studies)] if studies is not None else [])):
        out.print(f"{what} with a reader's finding: {compared.read or 'none yet'}")
        scores = (("A", compared.first_against_readers), ("B", compared.second_against_readers))
        for name, score in scores if compared.read else ():
            out.print(f"{name}  right {score.right}, wrong {score.wrong}, not assessed {score.not_assessed}")
