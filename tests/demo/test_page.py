"""The page: texts escaped, pictures inside, markup well-formed, nothing fetched from elsewhere."""

import base64
import re
from html.parser import HTMLParser

import pytest

from demo.page import Answer, Gallery, Page, Picture, Query, Table, build_page
from trainer.report.curve import line_chart

PNG = b"\x89PNG\r\n\x1a\n not really"
EVIL = "<script>alert('&')</script> \"quoted\""
VOID = {"meta", "img", "br", "hr", "link", "input"}


class Outline(HTMLParser):
    """Checks that tags are closed in order, and keeps what was seen."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def page() -> Page:
    picture = Picture(PNG, "png", EVIL)
    return Page(
        title=EVIL,
        lead=EVIL,
        tables=[Table(EVIL, ("", "recall@1"), [[EVIL, "50.0 %"]], ["by chance", "1.0 %"], EVIL)],
        charts=[line_chart(EVIL, {EVIL: [(0, 1.0), (10, 0.5)]})],
        galleries=[
            Gallery(EVIL, EVIL, [Query(EVIL, [Answer(1, 0.4, EVIL, picture, True, EVIL)])]),
            Gallery(
                "names",
                "",
                [Query(EVIL, [Answer(1, 0.4, "cat"), Answer(1234, 0.1, "dog", None, True)], picture)],
            ),
        ],
        commands=[f"lit-embed --output {EVIL}"],
        credits=[(EVIL, 'https://example.org/?a="b"'), ("no link", "")],
    )


@pytest.fixture(scope="module")
def html() -> str:
    return build_page(page())


@pytest.fixture(scope="module")
def outline(html: str) -> Outline:
    parser = Outline()
    parser.feed(html)
    parser.close()
    return parser


def test_every_tag_is_closed_in_order(html: str, outline: Outline) -> None:
    assert html.startswith("<!doctype html>\n")
    assert outline.open == []


def test_texts_are_escaped_everywhere(html: str, outline: Outline) -> None:
    assert "script" not in {tag for tag, _ in outline.tags}
    assert "<script" not in html
    # h1, lead, caption, row, note, chart's line, two headings, queries, answers, commands, credits, title
    assert outline.text.count(EVIL) >= 12
    assert {attributes["alt"] for tag, attributes in outline.tags if tag == "img"} == {EVIL}


def test_pictures_are_inside_and_nothing_is_fetched(outline: Outline) -> None:
    sources = [attributes["src"] for tag, attributes in outline.tags if tag == "img"]
    assert len(sources) == 2
    for source in sources:
        head, _, data = (source or "").partition(",")
        assert head == "data:image/png;base64"
        assert base64.b64decode(data) == PNG
    assert not {tag for tag, _ in outline.tags} & {"link", "script", "iframe", "object"}


def test_the_style_fetches_nothing_and_knows_dark_print_and_phone(html: str) -> None:
    assert "url(" not in html
    assert "@import" not in html
    for condition in ("prefers-color-scheme: dark", "@media print", "max-width: 40rem"):
        assert condition in html


def test_the_right_answer_is_marked_in_words_too(html: str) -> None:
    assert html.count('<li class="right">') == 2
    assert html.count("✓ right") == 2
    assert "#1,234" in html


def test_sections_without_content_are_left_out() -> None:
    text = build_page(Page("t", "l", [], [], [], [], []))
    assert re.findall("<h2>(.*?)</h2>", text) == ["Credits"]
