"""What the viewer of a series and the chart of its slices show, on the page of the series and on that of its study."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from worker.db.views.search import SeriesAnswer
from worker.db.views.series_detail import SeriesDetail
from worker.db.views.studies import StudySeriesAnswer
from worker.results import ModelIdentity
from worker.web import charts, ohif
from worker.web.dependencies import Site
from worker.web.templating import styles


def viewer_values(site: Site, answer: SeriesAnswer, detail: SeriesDetail) -> dict[str, Any]:
    """The values of viewer.html and slices.html. `pages.images` serves the pictures that they refer to."""
    bundle = site.bundle(answer.model_sha256)
    names = list(bundle.titles) if bundle else list(answer.probabilities)
    colours = styles(names, site.no_lesion_labels())
    is_lesion = site.is_lesion(answer.label, answer.model_sha256)
    key_slices = _key_slices(detail)
    return {
        "series": answer,
        "detail": detail,
        "names": names,
        "titles": site.class_titles(),
        "styles": colours,
        "lines": _probability_lines(detail, colours),
        "key_slices": key_slices,
        "no_lesion": bundle is not None and answer.label is not None and not is_lesion,
        "shown": _first_shown(detail, key_slices, bundle.identity if bundle else None, answer.label),
        "stored": any(slice_.file for slice_ in detail.slices),
        "ohif": ohif.is_installed(site.data_dir),
        "maps": [
            ordinal for ordinal, slice_ in enumerate(detail.slices) if is_lesion and slice_.activation is not None
        ],
    }


def by_number(series: Iterable[StudySeriesAnswer]) -> list[StudySeriesAnswer]:
    """Series by their Series Number, those without a number last."""
    return sorted(series, key=lambda item: (item.series_number is None, item.series_number or 0))


def beside_series(ordered: Sequence[str], shown: str, address: str) -> tuple[str | None, str | None]:
    """The addresses of the series before and after `shown`: `address` followed by their UIDs."""
    place = ordered.index(shown) if shown in ordered else None
    if place is None:
        return None, None
    before = ordered[place - 1] if place else None
    after = ordered[place + 1] if place + 1 < len(ordered) else None
    return (f"{address}{before}" if before else None, f"{address}{after}" if after else None)


def _key_slices(detail: SeriesDetail) -> list[int]:
    return [ordinal for ordinal, slice_ in enumerate(detail.slices) if slice_.deciding]


def _first_shown(
    detail: SeriesDetail, key_slices: Sequence[int], model: ModelIdentity | None, label: str | None
) -> int:
    """The slice of the picture that was sent: the key slice that told most; else the middle slice."""
    if model is None or not key_slices or label not in [item.name for item in model.labels]:
        return len(detail.slices) // 2
    shown = model.undetermined or model.class_named(label)  # such a model draws the slice most like a lesion
    return max(key_slices, key=lambda ordinal: model.probability_of(shown, detail.slices[ordinal].probabilities))


def _probability_lines(detail: SeriesDetail, colours: Mapping[str, str]) -> list[charts.Line]:
    """A line per class, by its colour, over the slices; none where no model read them."""
    if not detail.slices or len(detail.slices[0].probabilities) != len(colours):
        return []
    values = [[slice_.probabilities[index] for slice_ in detail.slices] for index in range(len(colours))]
    return charts.lines(list(colours), list(colours.values()), values, 1.0)
