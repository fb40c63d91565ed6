"""The report as one HTML page that needs nothing beside it and runs no script."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from pipelines.store.report import Report
from pipelines.store.text import Cell, Section, Shown, words
from schemas.storage import StorageOptions
from schemas.store import Store

# Nothing may be fetched: whatever a caption says stays text.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
STYLE = """
:root { --ink: #1d2330; --faint: #5d6678; --paper: #fbfaf7; --edge: #dedcd4; --bar: #2f5d8a; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e6df; --faint: #a3a9b6; --paper: #15181e; --edge: #353b47; --bar: #86b6e6; }
}
body { margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 66rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
div { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: middle; padding: .25rem .7rem .25rem 0; overflow-wrap: break-word;
  border-bottom: 1px solid var(--edge); }
th { color: var(--faint); font-weight: normal; font-size: .85rem; }
td.bar { color: var(--bar); letter-spacing: -1px; white-space: nowrap; }
img { max-width: 96px; max-height: 96px; float: left; margin-right: .6rem; }
p { color: var(--faint); font-size: .85rem; margin: .3rem 0; }
"""

Thumbnails = Mapping[tuple[str, str], bytes]  # JPEG by (unit, id)


def write_page(
    path: str, store: Store, report: Report, thumbnails: bool, options: StorageOptions | None = None
) -> str:
    """Writes the page; gives a word about its pictures.

    Args:
        path: a local file.
        store: from whose plan the pictures are read.
        report: what to show.
        thumbnails: whether to show pictures at all.
        options: fsspec options by protocol, for the inputs.
    """
    pictures: Thumbnails = {}
    note = "no thumbnails, as asked"
    if thumbnails:
        from pipelines.store.thumbnails import read_thumbnails  # Pillow: only here

        pictures, note = read_thumbnails(store, report.shown, options)
    Path(path).write_text(as_html(report.path, report.sections, pictures, note), encoding="utf-8")
    return note


def as_html(title: str, sections: Sequence[Section], thumbnails: Thumbnails, note: str) -> str:
    """The page's text."""
    body = "\n".join(_section(section, thumbnails) for section in sections)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n{body}\n<p>Pictures: {escape(note)}.</p>\n</body>\n</html>\n"
    )


def _section(section: Section, thumbnails: Thumbnails) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in section.header)
    rows = "\n".join(
        "<tr>" + "".join(_cell(cell, thumbnails) for cell in row) + "</tr>" for row in section.rows
    )
    notes = "".join(f"\n<p>{escape(note)}</p>" for note in section.notes)
    return (
        f"<h2>{escape(section.title)}</h2>\n<div><table>\n"
        + (f"<tr>{head}</tr>\n" if head else "")
        + f"{rows}\n</table></div>{notes}"
    )


def _cell(cell: Cell, thumbnails: Thumbnails) -> str:
    text = escape(words(cell))
    if isinstance(cell, Shown) and (jpeg := thumbnails.get((cell.unit, cell.id))):
        data = base64.b64encode(jpeg).decode("ascii")
        return f'<td><img alt="" src="data:image/jpeg;base64,{data}">{text}</td>'
    return f'<td class="bar">{text}</td>' if text.startswith("█") else f"<td>{text}</td>"
