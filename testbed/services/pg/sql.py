"""What the text of a statement says of how it has to be treated: no parser, only its words.

Words in strings, quoted names and comments do not count for what a statement is. Where the text says too little, the
session asks the database (`pg.session`), or it treats the statement as one that may write.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum

_TOKEN = re.compile(
    r"""(?P<skip> \s+ | --[^\n]*)
      | (?P<comment> /\*)
      | (?P<string> [eE]'(?:[^'\\]|\\.|'')*'? | '(?:[^']|'')*'? | "(?:[^"]|"")*"?)
      | (?P<dollar> \$(?:[A-Za-z_\x80-\xff][\w\x80-\xff]*)?\$)
      | (?P<word> [A-Za-z_\x80-\xff][\w$\x80-\xff]*)
      | (?P<end> ;)
      | (?P<other> .)""",
    re.VERBOSE | re.DOTALL,
)
_NESTED = re.compile(r"/\*|\*/")
_SESSION = re.compile(r"\b(set_config|temp(orary)?|pg_temp|(un)?listen|discard|deallocate)\b|advisory", re.IGNORECASE)
_SETTING = re.compile(r"\b(?:set|set_config)\b[\s(]*(?:session\s+|local\s+)?'?([A-Za-z_]\w*\.\w+)", re.IGNORECASE)


class Kind(Enum):
    """What a unit of statements does to the transaction."""

    OTHER = "may write"
    SESSION = "leaves nothing in the database"
    BEGIN = "begins a transaction"
    COMMIT = "commits it"
    ROLLBACK = "rolls it back"
    UNSAFE = "has effects that cannot be traced to one transaction"


@dataclass(frozen=True)
class Statement:
    """One, or several that are sent together."""

    kind: Kind
    copies: bool = False
    """Whether the client may have to send data in its course."""
    touches: bool = False
    """Whether it may change what the session has beside the transaction."""
    settings: frozenset[str] = frozenset()
    """Settings of extensions, and the user's own, that it may set: the catalogue does not list those."""


NOTHING = Statement(Kind.SESSION)
_KINDS = {
    **dict.fromkeys(("BEGIN", "START"), Kind.BEGIN),
    **dict.fromkeys(("COMMIT", "END"), Kind.COMMIT),
    **dict.fromkeys(("ROLLBACK", "ABORT"), Kind.ROLLBACK),
    **dict.fromkeys(
        ("SET", "RESET", "SHOW", "LISTEN", "UNLISTEN", "DISCARD", "DEALLOCATE", "DECLARE", "CLOSE", "FETCH", "MOVE",
         "LOAD", "SAVEPOINT", "RELEASE", "LOCK", "PREPARE"), Kind.SESSION,
    ),
}  # fmt: skip
_TOUCHING = frozenset(
    ("SET", "RESET", "LISTEN", "UNLISTEN", "DISCARD", "DEALLOCATE", "DECLARE", "CLOSE", "LOAD", "PREPARE", "DO", "CALL")
)


@functools.lru_cache(4096)
def read(text: str) -> Statement:
    """What the text of one query says."""
    statements = [_one(words) for words in _statements(text) if words]
    whole = combine(statements)
    touches = whole.touches or _SESSION.search(text) is not None
    settings = frozenset(name.lower() for name in _SETTING.findall(text))
    return Statement(whole.kind, whole.copies, touches or bool(settings), settings)


def combine(statements: Iterable[Statement]) -> Statement:
    """What they are together."""
    all_of_them = list(statements)
    kinds = {each.kind for each in all_of_them}
    if not kinds:
        kind = Kind.SESSION
    elif len(all_of_them) == 1:
        kind = all_of_them[0].kind
    elif kinds <= {Kind.OTHER, Kind.SESSION}:
        kind = Kind.OTHER if Kind.OTHER in kinds else Kind.SESSION
    else:
        kind = Kind.UNSAFE
    return Statement(
        kind,
        any(each.copies for each in all_of_them),
        any(each.touches for each in all_of_them),
        frozenset[str]().union(*(each.settings for each in all_of_them)),
    )


def _one(words: list[str]) -> Statement:
    first, *more = words
    kind = _KINDS.get(first, Kind.OTHER)
    two_phases = more[:1] == ["PREPARED"] or [first, *more[:1]] == ["PREPARE", "TRANSACTION"]
    if two_phases or (kind in (Kind.COMMIT, Kind.ROLLBACK) and "CHAIN" in more and "NO" not in more):
        kind = Kind.UNSAFE
    elif kind is Kind.ROLLBACK and "TO" in more:
        kind = Kind.SESSION
    return Statement(kind, copies=first == "COPY", touches=first in _TOUCHING)


def _statements(text: str) -> Iterator[list[str]]:
    """The first words of each statement."""
    words: list[str] = []
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        assert match is not None
        at = match.end()
        if match["comment"]:
            at = _end_of_comment(text, at)
        elif tag := match["dollar"]:
            end = text.find(tag, at)
            at = end + len(tag) if end >= 0 else len(text)
            words = words or [""]
        elif match["word"]:
            if len(words) < 6:
                words.append(match["word"].upper())
        elif match["end"]:
            yield words
            words = []
        elif not match["skip"] and (match["string"] or match["other"] not in "("):
            words = words or [""]
    yield words


def _end_of_comment(text: str, at: int) -> int:
    depth = 1
    for match in _NESTED.finditer(text, at):
        depth += 1 if match[0] == "/*" else -1
        if not depth:
            return match.end()
    return len(text)
