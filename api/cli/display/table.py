"""Rows of cells as lines of text, which fit a terminal.

Problem: a terminal breaks a table that is wider than it in the middle of words. Then its columns are not seen
any more. Cells must not be cut, because persons copy ids from them.

Algorithm: the columns are divided, from the left, into bands that are no wider than the terminal. Each row
is one line for each band, and the lines after the first are indented. A cell that is wider than a line is
wrapped at blanks. Without a terminal, a row is one line, for programs.

Cost: linear in the text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from noetl.planner.diagnostics.terminal_text import display_width, to_printable

_GAP = "  "
_INDENT = "    "


def layout_table(rows: Sequence[tuple[str, ...]], width: int | None) -> list[str]:
    """Return the lines of a table that is at most `width` cells wide, or as wide as needed if it is None.

    >>> layout_table([("report/nightly", "started", "the day is wrong")], 26)
    ['report/nightly  started', '    the day is wrong']
    >>> layout_table([("report/nightly", "started", "the day is wrong"), ("a", "missed", "")], 18)
    ['report/nightly', '    started', '    the day is', '    wrong', 'a', '    missed']
    """
    visible_rows = [tuple(map(to_printable, row)) for row in rows]
    widths = [max(map(display_width, column)) for column in zip(*visible_rows, strict=True)]
    bands = _divide(widths, width)
    return [
        line
        for row in visible_rows
        for number, band in enumerate(bands)
        for line in _lines_of(
            [row[column] for column in band],
            [widths[column] for column in band],
            "" if number == 0 else _INDENT,
            width,
        )
    ]


def _divide(widths: Sequence[int], limit: int | None) -> list[list[int]]:
    """Return the numbers of the columns of each band."""
    bands: list[list[int]] = []
    used = 0
    for column, width in enumerate(widths):
        needed = used + len(_GAP) + width
        if bands and (limit is None or needed <= limit):
            bands[-1].append(column)
            used = needed
        else:
            used = width + (len(_INDENT) if bands else 0)
            bands.append([column])
    return bands


def _lines_of(cells: Sequence[str], widths: Sequence[int], indent: str, limit: int | None) -> Iterator[str]:
    """Yield the lines of a row in one band. A band after the first has none if all cells are empty."""
    padded = (cell + " " * (width - display_width(cell)) for cell, width in zip(cells, widths, strict=True))
    line = (indent + _GAP.join(padded)).rstrip()
    if limit is None or display_width(line) <= limit:
        if line or not indent:
            yield line
        return
    # Only a band of one column is wider than the limit.
    available = max(limit - len(_INDENT), 1)
    for number, part in enumerate(_wrap(cells[0], available)):
        yield f"{_INDENT if number else indent}{part}"


def _wrap(text: str, width: int) -> Iterator[str]:
    """Yield the lines of a text, which end at blanks where possible.

    >>> list(_wrap("one two threefour", 7))
    ['one two', 'threefo', 'ur']
    """
    line = ""
    for word in text.split(" "):
        joined = f"{line} {word}" if line else word
        if display_width(joined) <= width:
            line = joined
            continue
        if line:
            yield line
        line = ""
        for character in word:
            if display_width(line + character) > width:
                yield line
                line = ""
            line += character
    if line:
        yield line
