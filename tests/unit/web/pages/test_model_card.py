from __future__ import annotations

from worker.inference.bundle import default_bundle
from worker.web.pages.model_card import card_as_html

_BOX = """# A card
```
Test part: patients
that training never saw
┏━━━━━━┳━━━━━━━━┓
┃ figure ┃ slices ┃
┡━━━━━━╇━━━━━━━━┩
│ accuracy │ 88.7 % (84.7-92.0) │
│ n │ 684 │
└──────┴────────┘
```
"""


def test_a_drawn_table_becomes_a_table_with_a_whisker_for_each_interval() -> None:
    html = card_as_html(_BOX)
    assert "<caption>Test part: patients that training never saw</caption>" in html
    assert '<th scope="row">accuracy</th><td>88.7 % (84.7-92.0)<svg' in html
    assert 'x1="101.6" y1="6" x2="110.4"' in html  # of 120
    assert html.count("<svg") == 1
    assert "<h2>A card</h2>" in html


def test_html_in_a_card_is_text() -> None:
    html = card_as_html("<script>alert(1)</script>\n\n```\n│ <b>x</b> │ y │\n└─\n```\n![p](http://elsewhere/p.png)")
    assert "<script" not in html
    assert "<b>" not in html
    assert "<img" not in html


def test_the_shipped_card_shows_its_figures() -> None:
    html = card_as_html((default_bundle() / "docs" / "README.md").read_text())
    assert "balanced accuracy" in html
    assert "│" not in html
