"""A bundle's model card as HTML: GitHub Flavored Markdown, with a whisker beside every 95 % interval of a table.

Cards of bundles up to brain-mri-tumour 0.3.0 have their tables drawn in box characters; these become Markdown first.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup

_INTERVAL = re.compile(r"(?<![\d.])(\d+(?:\.\d+)?) % \((\d+(?:\.\d+)?)-(\d+(?:\.\d+)?)\)")
_WIDTH = 120  # of a whisker, 0 to 100 %
_FENCE = re.compile(r"^```[^\n]*\n(.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)


def card_as_html(markdown: str) -> Markup:
    """The card; HTML in it is shown as text, never run."""
    parser = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")
    tokens = _with_figures(parser.parse(_INTERVAL.sub(_with_width, _FENCE.sub(_drawn_as_markdown, markdown))))
    rendered: str = parser.renderer.render(tokens, parser.options, {})
    return Markup(rendered)


def _with_figures(tokens: Sequence[Token]) -> list[Token]:
    """Headings a level lower, tables that scroll and name their rows, a whisker in each cell with an interval."""
    shown: list[Token] = []
    title, first_cell = "", False
    for position, token in enumerate(tokens):
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(6, int(token.tag[1]) + 1)}"  # the page has its own h1
            if token.type == "heading_open":
                title = tokens[position + 1].content
        elif token.type == "table_open":
            token.attrs["class"] = "figures"
            region = Markup('<div class="scroll" tabindex="0" role="region" aria-label="{}">')
            shown.append(_html(region.format(title or "Table")))
        elif token.type == "th_open":
            token.attrs = {"scope": "col"}  # without the style of an aligned column, which our policy forbids
        elif token.type == "tr_open":
            first_cell = True
        elif token.type == "td_open":
            token.attrs = {"scope": "row"} if first_cell else {}
            token.tag = tokens[position + 2].tag = "th" if first_cell else "td"
            if not first_cell and (whisker := _whisker(tokens[position + 1].content)):
                tokens[position + 1].children = [*(tokens[position + 1].children or []), _html(whisker)]
            first_cell = False
        shown.append(token)
        if token.type == "table_close":
            shown.append(_html(Markup("</div>")))
    return shown


def _with_width(interval: re.Match[str]) -> str:
    """The interval; of an interval without any width, which earlier cards have at 0 and 100 %, only the figure."""
    return interval[0] if interval[2] != interval[3] else f"{interval[1]} % (interval not known)"


def _html(content: Markup) -> Token:
    return Token("html_inline", "", 0, content=str(content))


def _whisker(cell: str) -> Markup | None:
    """The interval of a cell on an axis from 0 to 100 %."""
    match = _INTERVAL.search(cell)
    if match is None:
        return None
    value, low, high = (float(number) / 100 * _WIDTH for number in match.groups())
    return Markup(
        '<svg class="whisker" width="{w}" height="12" viewBox="0 0 {w} 12" aria-hidden="true">'
        '<line class="axis" x1="0" y1="6" x2="{w}" y2="6"/><line class="span" x1="{low}" y1="6" x2="{high}" y2="6"/>'
        '<circle cx="{value}" cy="6" r="3"/></svg>'
    ).format(w=_WIDTH, low=round(low, 1), high=round(high, 1), value=round(value, 1))


# --- tables drawn in box characters ------------------------------------------------------------------------------


def _drawn_as_markdown(fence: re.Match[str]) -> str:
    """The drawn tables of a fenced block as headings and GFM tables; any other fenced block as it is."""
    if "│" not in fence[1]:
        return fence[0]
    lines: list[str] = []
    title: list[str] = []
    head, rows = "", list[str]()
    for line in fence[1].splitlines():
        if line.startswith("┃"):
            head = _row(line)
        elif line.startswith("│"):
            rows.append(_row(line))
        elif line.startswith("└"):
            columns = max((row.count(" | ") + 1 for row in rows), default=1)
            lines += [
                "",
                f"### {' '.join(title)}",
                "",
                head or _cells([""] * columns),
                _cells(["---"] * columns),
                *rows,
            ]
            title, head, rows = [], "", []
        elif not line.startswith(("┏", "┡", "├")):
            title.append(line.strip())
    return "\n".join([*lines, ""])


def _row(line: str) -> str:
    return _cells([cell.strip().replace("|", r"\|") for cell in re.split("[┃│]", line)[1:-1]])


def _cells(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
