"""Sentences of documentation have at most 25 words.

Documentation is docstrings of the packages and Markdown. Inline code is one word. Code blocks, tables, HTML
and doctests are skipped. A list item or a heading ends a sentence; a colon or a semicolon does not.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.style.prose import documentation, sentences
from tests.style.rule import StyleRule, StyleViolation
from tests.style.source import PACKAGES, Repository

MOST_WORDS = 25


def find(repository: Repository) -> Iterator[StyleViolation]:
    """Yield each sentence that is too long."""
    for file in repository.files:
        if file.suffix != ".md" and file.top not in PACKAGES:
            continue
        for paragraph in documentation(file):
            for sentence in sentences(paragraph):
                if (count := sentence.word_count) > MOST_WORDS:
                    start = " ".join(sentence.text.split()[:5])
                    problem = f'sentence of {count} words (at most {MOST_WORDS}): "{start} ..."'
                    yield StyleViolation(file.path, sentence.line, problem, file.path)


RULE = StyleRule("sentence-length", find, "split the sentence: one main clause each")
