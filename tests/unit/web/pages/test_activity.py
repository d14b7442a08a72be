from __future__ import annotations

import httpx
import pytest


@pytest.mark.parametrize("span", ["day", "week", "month"])
def test_results_are_counted_by_class(client: httpx.Client, span: str) -> None:
    page = client.get("/activity", params={"span": span}).text
    assert "<dd>1</dd></div><div><dt>Glioma</dt><dd>1</dd>" in page
    assert '<rect class="fill c0"' in page
    assert "<td>1</td><td>5.0 s</td><td>5.0 s</td>" in page  # median and 95th percentile
    assert f'href="/activity?span={span}" aria-current="true"' in page


def test_another_span_is_refused_by_name(client: httpx.Client) -> None:
    answer = client.get("/activity?span=ever")
    assert (answer.status_code, answer.json()["detail"]) == (422, "span: must be one of day, week, month")
