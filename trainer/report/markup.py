"""Text of unknown origin made safe and fit for a page."""

from html import escape as _escape


def escape(text: object, longest: int = 300) -> str:
    r"""Text as HTML: markup stays text, control and bidirectional characters do no harm, long texts are cut.

    >>> escape("<b>a\u202e\x00 & b</b>")
    '&lt;b&gt;a�� &amp; b&lt;/b&gt;'
    """
    line = " ".join(str(text)[: 4 * longest].split())
    line = "".join(char if char.isprintable() or char == "\u200d" else "�" for char in line)
    return _escape(line if len(line) <= longest else line[: longest - 1] + "…")


def count(number: float) -> str:
    """A whole number with commas between thousands."""
    return f"{number:,.0f}"


def short(number: float) -> str:
    """
    >>> short(23_058_176), short(512)
    ('23.1 M', '512')
    """
    for size, word in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= 10 * size:
            return f"{number / size:.1f} {word}"
    return count(number)


def percent(fraction: float, error: float | None = None) -> str:
    """
    >>> percent(0.4567, 0.012)
    '45.7 ± 1.2 %'
    """
    return f"{100 * fraction:.1f} %" if error is None else f"{100 * fraction:.1f} ± {100 * error:.1f} %"
