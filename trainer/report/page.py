"""The report's page put together: sections in, one HTML file out, without scripts and with nothing to fetch."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from trainer.report.markup import escape
from trainer.report.style import STYLE

# Nothing may be fetched and nothing run: whatever a caption says stays text.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it.

    Attributes:
        anchor: its name in links of the page.
        title: the heading.
        body: markup; every text in it is escaped already.
        note: a sentence under the heading.
    """

    anchor: str
    title: str
    body: str
    note: str = ""


@dataclass(frozen=True)
class Tile:
    """One number to see first."""

    value: str
    name: str
    note: str = ""


def build_page(title: str, lead: str, tiles: Sequence[Tile], sections: Iterable[Section]) -> str:
    """The whole file as text.

    Args:
        title: the run's name.
        lead: the sentence under it.
        tiles: the first numbers.
        sections: in order; those without a body are left out.
    """
    kept = [section for section in sections if section.body]
    links = "".join(f'<a href="#{escape(one.anchor)}">{escape(one.title)}</a>' for one in kept)
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>{escape(title)}</title>",
            f"<style>{STYLE}</style>",
            "</head>",
            "<body>",
            f'<header>\n<h1>{escape(title)}</h1>\n<p class="lead">{escape(lead, 1000)}</p>',
            f'<div class="tiles">{"".join(map(_tile, tiles))}</div>',
            f"<nav>{links}</nav>\n</header>",
            "<main>",
            *map(_section, kept),
            "</main>",
            "</body>",
            "</html>",
            "",
        ]
    )


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, kind: str = "", caption: str = "") -> str:
    """A table of texts, the first cell of a row being its name; empty without rows."""
    lines = [_row(cells) for cells in rows]
    if not lines:
        return ""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in columns)
    title = f"<caption>{escape(caption)}</caption>\n" if caption else ""
    head = f"<thead><tr>{head}</tr></thead>\n" if any(columns) else ""
    body = "\n".join(lines)
    return f'<div class="wide"><table class="{kind}">\n{title}{head}<tbody>\n{body}\n</tbody>\n</table></div>'


def details(summary: str, body: str) -> str:
    """Something long, folded away until it is asked for."""
    return f"<details>\n<summary>{escape(summary)}</summary>\n{body}\n</details>" if body else ""


def paragraph(text: str, kind: str = "note") -> str:
    return f'<p class="{kind}">{escape(text, 2000)}</p>' if text else ""


def side_by_side(parts: Iterable[str], kind: str = "charts") -> str:
    """Charts or tables that stand beside each other where there is room."""
    inside = "\n".join(part for part in parts if part)
    return f'<div class="{kind}">\n{inside}\n</div>' if inside else ""


def _row(cells: Sequence[str]) -> str:
    name, *values = (escape(cell) for cell in cells)
    return f'<tr><th scope="row">{name}</th>' + "".join(f"<td>{value}</td>" for value in values) + "</tr>"


def _tile(tile: Tile) -> str:
    note = f"<small>{escape(tile.note)}</small>" if tile.note else ""
    return f"<div><b>{escape(tile.value)}</b><span>{escape(tile.name)}</span>{note}</div>"


def _section(section: Section) -> str:
    return (
        f'<section id="{escape(section.anchor)}">\n<h2>{escape(section.title)}</h2>\n'
        f"{paragraph(section.note)}\n{section.body}\n</section>"
    )
