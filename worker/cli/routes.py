"""`worker routes`: try the routing rules on series."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.cli.context import EXIT_FAULT, ConfigOption, settings_from

if TYPE_CHECKING:
    from worker.config.routing import RouteSection
    from worker.dicom.series_type import SeriesType

commands = typer.Typer(no_args_is_help=True, help=r"The [\[route]] rules: which models classify a series.")


@commands.command("test", epilog="Example: worker routes test /data/series --config config.toml")
def try_routes(
    path: Annotated[Path, typer.Argument(help="A folder of DICOM files, searched recursively, or one file.")],
    sender: Annotated[str, typer.Option(help="The calling AE title of its sender, for Sender.ae_title.")] = "",
    config: ConfigOption = None,
) -> None:
    """Print which rule applies to each series, and why the others do not; needs neither service nor database."""
    from worker.cli.output import as_line
    from worker.config import routing
    from worker.dicom.series_type import read_series_type
    from worker.ops.classify_folder import read_folder
    from worker.receive.eligibility import check_eligibility

    settings, _ = settings_from(config)
    if not settings.route:
        typer.echo("the configuration has no [[route]]: the active models classify every eligible series")
    series, unread = read_folder(path, settings.route)
    for fault in unread:
        typer.echo(as_line(f"not read: {fault.path.name}: {fault.detail}"), err=True)
    for members in series.values():
        attributes = [instance.attributes for _, instance in members]
        series_type = read_series_type(attributes)
        refused = check_eligibility(attributes, settings.eligibility, series_type)
        senders = [sender] if sender else []
        decides = routing.decide(settings.route, attributes, series_type, senders)
        urgent = ", urgent" if routing.is_urgent(settings.route, attributes, series_type, senders) else ""
        typer.echo(as_line(f"{members[0][0]} (images: {len(members)}): {_outcome(decides)}{urgent}"))
        typer.echo(as_line(f"  series type: {series_type}"))
        if refused is not None:
            typer.echo(as_line(f"  not eligible, so no rule applies: {refused.detail}"))
        for number, route in enumerate(settings.route, 1):
            standing = _standing(route, decides, attributes, series_type, senders)
            typer.echo(as_line(f"  {number} '{route.name}': {standing}"))
    if unread or not series:
        raise typer.Exit(EXIT_FAULT)


def _outcome(route: RouteSection | None) -> str:
    if route is None:
        return "no rule matches; the active models"
    return f"refused: {route.refuse}" if route.refuse is not None else ", ".join(route.models)


def _standing(
    route: RouteSection,
    decides: RouteSection | None,
    attributes: Sequence[Mapping[str, Any]],
    series_type: SeriesType,
    senders: Sequence[str],
) -> str:
    from worker.config import routing

    if route is decides:
        return "matches and applies"
    if route.only_urgent and routing.matches(route, attributes, series_type, senders):
        return "matches: urgent"
    if decides is not None and routing.matches(route, attributes, series_type, senders):
        return f"also matches, but '{decides.name}' comes first"
    reasons, images = [], routing.recorded_images(attributes)
    unit = "images" if len(images) == len(attributes) else "kinds of frames"
    for condition, number in routing.failing_conditions(route, attributes, series_type, senders):
        reason = f"{condition} does not hold for {number} of {len(images)} {unit}"
        if not routing.may_name_a_patient(condition.attribute):
            values = {
                value
                for image in images
                for value in routing.values_for(condition, image, series_type, senders) or ()
                if value
            }
            reason += f" (here: {', '.join(sorted(values)) or 'absent'})"
        reasons.append(reason)
    return "; ".join(reasons) or "no image meets all of its conditions"
