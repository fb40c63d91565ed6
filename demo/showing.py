"""The end of a demo: figures and queries on the terminal, and the page."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from demo.figures import as_text, retrieval_table, training_charts
from demo.galleries import Pictures, captions_by_picture, free_queries, pictures_by_caption
from demo.journey import Journey
from demo.looking import open_embedder, open_side
from demo.page import Gallery, Page, Table, build_page

TITLES = {"seen": "Seen concepts (trained on)", "unseen": "Unseen concepts (held out)"}
SEED = 7


def show_tables(reports: dict[str, dict[str, Any]], more: Sequence[Table] = ()) -> list[Table]:
    """Prints the figures, and gives them back as tables."""
    tables = [*(retrieval_table(TITLES[name], report) for name, report in reports.items()), *more]
    print("\n" + "\n\n".join(map(as_text, tables)))
    return tables


def show_queries(journey: Journey, texts: Sequence[str], pictures: Pictures) -> list[Gallery]:
    """Asks the run's text tower, prints the answers to `texts`, and gives all galleries back."""
    embed_texts = open_embedder(journey.places)
    everything = open_side(journey.places, "all", embed_texts)
    unseen = open_side(journey.places, "heldout", embed_texts)
    galleries = [pictures_by_caption(unseen, pictures, SEED), captions_by_picture(unseen, pictures, SEED + 1)]
    if texts:
        found = free_queries(everything, texts, embed_texts(texts), pictures, set(unseen.ids))
        _print_answers(found)
        galleries.insert(0, found)
    return galleries


def write_page(
    journey: Journey,
    title: str,
    lead: str,
    tables: Sequence[Table],
    galleries: Sequence[Gallery],
    credits_: Sequence[tuple[str, str]],
) -> Path:
    """Writes the page and says where it is, as the last line."""
    page = Page(
        title=title,
        lead=lead,
        tables=tables,
        charts=training_charts(journey.metrics()),
        galleries=galleries,
        commands=journey.said,
        credits=credits_,
    )
    path = journey.places.page
    path.write_text(build_page(page), encoding="utf-8")
    print(f"\npage: {path}")
    return path


def _print_answers(gallery: Gallery) -> None:
    print("\nIn your own words (* unseen in training)")
    for query in gallery.queries:
        answers = ", ".join(answer.text + ("*" if answer.note else "") for answer in query.answers)
        print(f"  {query.text!r}: {answers}")
