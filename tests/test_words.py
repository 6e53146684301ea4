"""No sentence of the repository uses a banned word: in prose, docstrings, comments, strings and names.

The rules of language are in CONTRIBUTING.md. This file is their executed part: the words that made the prose hard to read.
"""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

BANNED = re.compile(
    r"""
    \b(?:
        he(?!\ et\ al|,?\ [zZ]hang|,\ [gG]irshick) | his | him | whom | whoever | whosoever | whose\ call
      | nobody | nobody's | somebody | anybody | everybody | anew | twins?
      | (?<!bounding[ ])(?<!bounding[_-])box(?:es)? | doors? | houses? | rooms? | look(?!\ up\b)(?:s|ed|ing)? | welcomed? | life
      | (?<!nearest[ -])(?<!nearest_)neighbours?
      | (?<!there\ )(?:is|are|was|were|be)\ none\ of
      | (?<!there\ )(?:is|are|was|were|be)\ no\ (?!longer\b|more\b|less\b|(?:lat|earli|larg|small|slow|fast)er\b)
    )\b
    | \bNothing,?\ (?:if|where|when|but|until)\b
    | \bWhat\b[^.;:\n]{0,80}\bis\ what\b
    """,
    re.VERBOSE,
)
"""Matched with the case that is written here, and with a capital first letter."""

THINGS = {"door", "doors", "house", "houses", "box", "boxes"}

ALLOWED = {
    "models/training/classes.py": THINGS,  # names of classes
    "models/nets/slices.py": {"neighbours"},  # slices beside a slice
    "models/training/slices.py": {"neighbours"},  # the same
    "models/scenes/": THINGS,  # what is drawn
    "docs/formats.md": THINGS,  # names of classes
    "models/artifacts/": {"twin"},  # a text inside the shipped artifacts
    "service/pipeline/codecs/heif.py": {"box", "boxes"},  # the term of ISO 14496-12
    "tests/test_foreign.py": {"box", "boxes"},  # the same
    "tests/test_heif.py": {"box", "boxes"},  # the same
    "service/encodings/tables.py": THINGS,  # names of classes
    "service/api/page/page.css": {"box"},  # CSS's own word
    "tests/test_words.py": None,
}
"""Words that a file, or the files of a folder, use for the thing itself; None for a file that has to spell them all."""

WHOLE = {".md", ".js", ".html", ".css", ".c", ".lua", ".sh", ".yaml", ".yml", ".toml", ".conf", ".cpp", ".txt", ""}
"""Suffixes of files that are read as they are; of Python files the comments, strings and names are read."""

FOLDERS = (".ci", ".github", "benchmarks", "deploy", "docs", "fuzz", "models", "service", "tests")

NOT_OURS = ("deploy/locks/", "benchmarks/peers/", "LICENSE", ".coverage")
"""Written by other programs or by other people."""


@dataclass(frozen=True)
class Passage:
    """A piece of prose and the line on which it begins."""

    line: int
    text: str


def files() -> list[str]:
    """The names of the repository's text files, relative to its root."""
    paths = [*ROOT.iterdir(), *chain.from_iterable((ROOT / folder).rglob("*") for folder in FOLDERS)]
    names = (path.relative_to(ROOT).as_posix() for path in paths if path.suffix in WHOLE | {".py"} and path.is_file())
    return sorted(name for name in names if not name.startswith(NOT_OURS) and "__pycache__" not in name)


def allowed(name: str) -> set[str] | None:
    """The entry of ALLOWED for a file."""
    return next((words for prefix, words in ALLOWED.items() if name.startswith(prefix)), set())


def passages(name: str) -> Iterator[Passage]:
    """Yield what people read of a file; whitespace is one space, so that a phrase may span lines."""
    text = (ROOT / name).read_text("utf-8")
    if not name.endswith(".py"):
        for number, line in enumerate(text.splitlines(), 1):
            yield Passage(number, line)
        return
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        kind = tokenize.tok_name[token.type]
        if kind in ("COMMENT", "STRING", "FSTRING_MIDDLE"):
            yield Passage(token.start[0], re.sub(r"\s+", " ", token.string))
        elif kind == "NAME" and "_" in token.string:
            yield Passage(token.start[0], token.string.replace("_", " "))


def offences(name: str) -> list[str]:
    """Return ``file:line: word`` for each banned word of a file."""
    exempt = allowed(name)
    if exempt is None:
        return []
    return [
        f"{name}:{passage.line}: {match.group()!r} in {passage.text[max(0, match.start() - 40) : match.end() + 40]!r}"
        for passage in passages(name)
        for match in BANNED.finditer(lowered(passage.text))
        if match.group() not in exempt
    ]


def lowered(text: str) -> str:
    """Return a text whose capitalised words begin in lower case, but for the words that BANNED wants with a capital."""
    return re.sub(r"\b(?!Nothing|What|None)[A-Z](?=[a-z]+\b)|\bHe\b", lambda letter: letter.group().lower(), text)


@pytest.mark.parametrize("name", files())
def test_a_file_uses_plain_words(name: str) -> None:
    """No banned word stands in a comment, a docstring, a string, a name or a page."""
    assert offences(name) == []


@pytest.mark.parametrize(
    "sentence",
    [
        "Whoever asks",
        "He waits",
        "of his request",
        "There is nobody",
        "It starts anew",
        "which is none of ours",
        "This is no image",
        "Nothing, if it fits",
        "What is sent is what is kept",
        "in a box of their own",
        "a look at the folder",
        "his neighbour",
    ],
)
def test_the_words_are_found(sentence: str) -> None:
    """The tests above would pass silently if the pattern missed a word."""
    assert BANNED.search(lowered(sentence))


@pytest.mark.parametrize(
    "sentence",
    [
        "if x is None",
        "there is no limit",
        "a bounding box",
        "this",
        "nearest neighbour",
        "it is no longer here",
        "the lifetime",
        "lookup",
    ],
)
def test_plain_sentences_pass(sentence: str) -> None:
    """The field's own words are not banned."""
    assert not BANNED.search(lowered(sentence))
