from __future__ import annotations

import pytest

from worker.web.charts import lines, round_top, seconds, stacked


def test_lines_run_from_the_foot_to_the_top_and_pass_over_gaps() -> None:
    [line, single] = lines(["a", "b"], ["c0", "c1"], [[0, None, 2], [None, 1, None]], 2)
    assert (line.points, line.mark) == ("0.5,100.0 2.5,0.0", None)
    assert single.mark == (1.5, 50.0)


def test_bars_stand_on_one_another() -> None:
    first, second = stacked(["c0", "c1"], [[1, 3], [0, 0]], 4)
    assert (first.y, first.height, second.y, second.height) == (75, 25, 0, 75)


@pytest.mark.parametrize(("largest", "top"), [(0, 1), (3, 5), (5, 5), (12, 20), (0.2, 0.2), (101, 200)])
def test_an_axis_ends_at_a_round_number(largest: float, top: float) -> None:
    assert round_top(largest) == pytest.approx(top)


@pytest.mark.parametrize(
    ("value", "text"), [(None, "-"), (1.25, "1.2 s"), (61, "61 s"), (600, "10 min"), (9000, "2 h")]
)
def test_durations_as_a_person_says_them(value: float | None, text: str) -> None:
    assert seconds(value) == text
