from __future__ import annotations

from monai_train.evaluation.tables import markdown_table
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
_TITLE = "Test part: patients that training never saw"
_GFM = f"""# A card

### {_TITLE}

{markdown_table(["figure", "slices"], [["accuracy", "88.7 % (84.7-92.0)"], ["n", "684"]])}
"""


def test_a_drawn_table_is_shown_as_the_same_table_in_markdown() -> None:
    assert "".join(card_as_html(_BOX).split()) == "".join(card_as_html(_GFM).split())


def test_a_table_names_its_rows_and_has_a_whisker_for_each_interval() -> None:
    html = card_as_html(_GFM)
    assert f'<h4>{_TITLE}</h4>\n<div class="scroll" tabindex="0" role="region" aria-label="{_TITLE}">' in html
    assert '<th scope="col">slices</th>' in html
    assert '<th scope="row">accuracy</th>\n<td>88.7 % (84.7-92.0)<svg' in html
    assert 'x1="101.6" y1="6" x2="110.4"' in html  # of 120
    assert html.count("<svg") == 1
    assert "<h2>A card</h2>" in html


def test_an_interval_without_any_width_is_not_shown_as_one() -> None:
    html = card_as_html(_GFM.replace("88.7 % (84.7-92.0)", "100.0 % (100.0-100.0)"))
    assert "<td>100.0 % (interval not known)</td>" in html
    assert "<svg" not in html


def test_html_in_a_card_is_text() -> None:
    html = card_as_html(
        "<script>alert(1)</script>\n\n```\n│ <b>x</b> │ y │\n└─\n```\n![p](http://elsewhere/p.png)\n\n"
        '## "><script>\n\n| <i>a</i> | b |\n|:-:|--:|\n| <u>c</u> | 1.0 % (0.0-2.0)<s> |\n'
    )
    for tag in ("<script", "<b>", "<img", "<i>", "<u>", "<s>", "style="):
        assert tag not in html
    assert 'aria-label="&#34;&gt;&lt;script&gt;"' in html


def test_a_pipe_in_a_cell_stays_in_its_cell() -> None:
    html = card_as_html("```\n┃ a ┃ b ┃\n│ x|y │ z │\n└─\n```")
    assert '<th scope="row">x|y</th>' in html


def test_a_block_of_code_stays_one() -> None:
    assert "<pre><code>monai-train export\n</code></pre>" in card_as_html("```\nmonai-train export\n```")


def test_the_shipped_card_shows_its_figures() -> None:
    html = card_as_html((default_bundle() / "docs" / "README.md").read_text())
    assert "balanced accuracy" in html
    assert "│" not in html
    # three parts, the test part by sequence, level and source, and the rules by sequence
    assert html.count('<table class="figures">') == html.count("</table>\n</div>") == 5
    assert html.count("<svg") > 10
