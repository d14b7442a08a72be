"""A bundle's model card as HTML: Markdown, with its tables of figures as tables and every interval as a whisker."""

from __future__ import annotations

import re
from dataclasses import dataclass

from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup, escape

_INTERVAL = re.compile(r"(\d+(?:\.\d+)?) % \((\d+(?:\.\d+)?)-(\d+(?:\.\d+)?)\)")
_WIDTH = 120  # of a whisker, 0 to 100 %


@dataclass(frozen=True, slots=True)
class _Table:
    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def card_as_html(markdown: str) -> Markup:
    """The card; HTML in it is shown as text, never run."""
    parser = MarkdownIt("commonmark", {"html": False}).disable("image")
    tokens = parser.parse(markdown)
    for token in tokens:
        if token.type == "heading_open" or token.type == "heading_close":
            token.tag = f"h{min(6, int(token.tag[1]) + 1)}"  # the page has its own h1
        if token.type == "fence" and "│" in token.content:
            _draw_tables(token)
    rendered: str = parser.renderer.render(tokens, parser.options, {})
    return Markup(rendered)


def _draw_tables(token: Token) -> None:
    token.type, token.tag = "html_block", ""
    token.content = str(Markup("").join(_as_html(one) for one in _tables(token.content)))


def _tables(text: str) -> list[_Table]:
    """The tables that Rich drew: a title above a box of lines."""
    tables: list[_Table] = []
    title: list[str] = []
    head: tuple[str, ...] = ()
    rows: list[tuple[str, ...]] = []
    for line in text.splitlines():
        if line.startswith(("┃", "│")):
            cells = tuple(cell.strip() for cell in re.split("[┃│]", line)[1:-1])
            if line.startswith("┃"):
                head = cells
            else:
                rows.append(cells)
        elif line.startswith("└"):
            tables.append(_Table(" ".join(title), head, tuple(rows)))
            title, rows = [], []
        elif not line.startswith(("┏", "┡", "├")):
            title.append(line.strip())
    return tables


def _as_html(table: _Table) -> Markup:
    head = Markup("").join(Markup('<th scope="col">{}</th>').format(cell) for cell in table.head)
    rows = Markup("").join(
        Markup('<tr><th scope="row">{}</th>{}</tr>').format(row[0], Markup("").join(_cell(cell) for cell in row[1:]))
        for row in table.rows
    )
    return Markup(
        '<div class="scroll" tabindex="0" role="region" aria-label="{0}"><table class="figures"><caption>{0}</caption>'
        "<thead><tr>{1}</tr></thead><tbody>{2}</tbody></table></div>"
    ).format(table.title, head, rows)


def _cell(text: str) -> Markup:
    found = _INTERVAL.search(text)
    if found is None:
        return Markup("<td>{}</td>").format(text)
    value, low, high = (float(number) / 100 * _WIDTH for number in found.groups())
    whisker = Markup(
        '<svg class="whisker" width="{w}" height="12" viewBox="0 0 {w} 12" aria-hidden="true">'
        '<line class="axis" x1="0" y1="6" x2="{w}" y2="6"/><line class="span" x1="{low}" y1="6" x2="{high}" y2="6"/>'
        '<circle cx="{value}" cy="6" r="3"/></svg>'
    ).format(w=_WIDTH, low=round(low, 1), high=round(high, 1), value=round(value, 1))
    return Markup("<td>{}{}</td>").format(escape(text), whisker)
