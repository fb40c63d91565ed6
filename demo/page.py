"""Builds the demo's page: one HTML file that needs nothing beside it and runs no script."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from demo.page_style import STYLE


@dataclass(frozen=True)
class Picture:
    """An image to embed in the page.

    Attributes:
        data: its encoded bytes.
        kind: the part after `image/` of its media type: png or jpeg.
        name: for readers who do not see it.
    """

    data: bytes
    kind: str
    name: str

    def html(self) -> str:
        """An `<img>` that carries its own bytes."""
        encoded = base64.b64encode(self.data).decode("ascii")
        return f'<img alt="{escape(self.name)}" src="data:image/{self.kind};base64,{encoded}">'


@dataclass(frozen=True)
class Answer:
    """One answer to a query.

    Attributes:
        rank: 1 for the best.
        score: cosine.
        text: a caption.
        picture: where the answer is a picture.
        right: whether it is the one that was asked for; None where nobody knows.
        note: a word about it, such as "unseen".
    """

    rank: int
    score: float
    text: str
    picture: Picture | None = None
    right: bool | None = None
    note: str = ""


@dataclass(frozen=True)
class Query:
    """A text or a picture, and what was found for it."""

    text: str
    answers: Sequence[Answer]
    picture: Picture | None = None


@dataclass(frozen=True)
class Gallery:
    """Queries of one kind under a heading."""

    title: str
    lead: str
    queries: Sequence[Query]


@dataclass(frozen=True)
class Table:
    """Rows of cells; the first cell of a row is its name. What chance would give stands in the last row, if known."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    chance: Sequence[str] = ()
    note: str = ""


@dataclass(frozen=True)
class Page:
    """All that is on the page, in its order.

    Attributes:
        title, lead: the heading and the sentence under it.
        tables: the figures.
        charts: SVG elements, put in as they are.
        galleries: the retrieval galleries.
        commands: command lines that made it.
        credits: who made what is shown, with (text, link) pairs.
    """

    title: str
    lead: str
    tables: Sequence[Table]
    charts: Sequence[str]
    galleries: Sequence[Gallery]
    commands: Sequence[str]
    credits: Sequence[tuple[str, str]]


def build_page(page: Page) -> str:
    """The whole file as text. Every text of the page's is escaped; only `charts` are markup already."""
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>{escape(page.title)}</title>",
            f"<style>{STYLE}</style>",
            "</head>",
            "<body>",
            "<header>",
            f"<h1>{escape(page.title)}</h1>",
            f'<p class="lead">{escape(page.lead)}</p>',
            "</header>",
            "<main>",
            *_section("Figures", [_table(table) for table in page.tables], "tables"),
            *_section("Training", page.charts, "charts"),
            *(line for gallery in page.galleries for line in _gallery(gallery)),
            *_section("Commands", [f"<pre>{escape(line)}</pre>" for line in page.commands], "commands"),
            "</main>",
            "<footer>",
            "<h2>Credits</h2>",
            "<ul>",
            *(_credit(text, link) for text, link in page.credits),
            "</ul>",
            "</footer>",
            "</body>",
            "</html>",
            "",
        ]
    )


def _section(title: str, inside: Sequence[str], kind: str) -> list[str]:
    if not inside:
        return []
    return [
        "<section>",
        f"<h2>{escape(title)}</h2>",
        f'<div class="{kind}">',
        *inside,
        "</div>",
        "</section>",
    ]


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in table.columns)
    body = "\n".join(_row(cells) for cells in table.rows)
    if table.chance:
        body += "\n" + _row(table.chance, ' class="faint"')
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    return (
        f"<div><table>\n<caption>{escape(table.caption)}</caption>\n"
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>{note}</div>"
    )


def _row(cells: Sequence[str], attributes: str = "") -> str:
    name, *values = map(escape, cells)
    return (
        f'<tr{attributes}><th scope="row">{name}</th>'
        + "".join(f"<td>{value}</td>" for value in values)
        + "</tr>"
    )


def _gallery(gallery: Gallery) -> list[str]:
    lead = f'<p class="note">{escape(gallery.lead)}</p>'
    return [
        "<section>",
        f"<h2>{escape(gallery.title)}</h2>",
        lead,
        *map(_query, gallery.queries),
        "</section>",
    ]


def _query(query: Query) -> str:
    shown = query.picture.html() if query.picture else ""
    kind = "by-picture" if query.picture else "by-text"
    answers = "\n".join(map(_answer, query.answers))
    return (
        f'<article class="query {kind}">\n<h3>{shown}<span>{escape(query.text)}</span></h3>\n'
        f"<ol>\n{answers}\n</ol>\n</article>"
    )


def _answer(answer: Answer) -> str:
    picture = answer.picture.html() if answer.picture else ""
    right = ' class="right"' if answer.right else ""
    note = f"<small>{escape(answer.note)}</small>" if answer.note else ""
    mark = '<b class="mark">✓ right</b>' if answer.right else ""
    place = f"<small>#{answer.rank:,} · {answer.score:.2f}</small>"
    return f"<li{right}>{picture}<span>{escape(answer.text)}</span>{note}{mark}{place}</li>"


def _credit(text: str, link: str) -> str:
    return f'<li><a href="{escape(link)}">{escape(text)}</a></li>' if link else f"<li>{escape(text)}</li>"
