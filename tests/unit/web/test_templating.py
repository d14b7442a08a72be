from __future__ import annotations

import re

import httpx
import pytest

from worker.web.templating import percent, person, render, styles


def test_static_files_are_cached_by_the_browser_and_no_others_are_served(client: httpx.Client) -> None:
    [style] = re.findall(r'href="(/static/worker\.css[^"]*)"', client.get("/").text)
    assert "max-age" in client.get(style).headers["cache-control"]
    assert client.get("/static/..%2Fpage.py").status_code == 404


def test_names_and_probabilities_as_a_person_reads_them() -> None:
    assert person("Family^Given^Middle^Dr=ideographic") == "Family, Given Middle"
    assert (percent(0.9999), percent(0.0001), percent(0.5)) == ("> 99.9 %", "< 0.1 %", "50.0 %")


@pytest.mark.parametrize(("name", "shown"), [("", ""), ("^Given", "Given"), ("Only", "Only"), (" A ^ B ", "A, B")])
def test_a_name_may_lack_components(name: str, shown: str) -> None:
    assert person(name) == shown


def test_values_are_escaped() -> None:
    page = render("problem.html", None, status=404, heading="<b>", detail="<script>")
    assert "<script>" not in page
    assert "<b>" not in page


def test_classes_have_colours_by_position_which_repeat_after_eight() -> None:
    colours = styles([f"class {number}" for number in range(9)])
    assert (colours["class 0"], colours["class 7"], colours["class 8"]) == ("c0", "c7", "c0")


def test_a_class_that_means_nothing_is_there_is_grey_wherever_it_stands() -> None:
    four = styles(["glioma", "meningioma", "pituitary", "notumor"], {"notumor"})
    assert four == {"glioma": "c0", "meningioma": "c1", "pituitary": "c2", "notumor": "c3"}
    with_other = styles(["glioma", "meningioma", "pituitary", "other", "notumor", "tumor"], {"notumor"})
    assert with_other == {**four, "other": "c4", "tumor": "c5"}
