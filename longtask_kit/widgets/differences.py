"""Where answers differ, word by word; pure."""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from itertools import combinations, pairwise
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

MOST_PAIRS = 6_000_000
"""Of words to compare, in all: beyond that it takes longer than anybody waits."""
# Scripts without blanks are compared sign by sign.
_SIGNS = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_WORDS = re.compile(rf"[{_SIGNS}]|[^\W{_SIGNS}]+|[^\w\s]")


class Span(NamedTuple):
    """A piece of a text, from its first character to behind its last."""

    begin: int
    end: int


def find_differences(texts: Sequence[str]) -> list[list[Span]]:
    """Return of each text what none of the others has at that place.

    Nothing is marked in texts so long that they are more than `MOST_PAIRS`.
    """
    words = [list(_WORDS.finditer(text)) for text in texts]
    said = [[word.group() for word in one] for one in words]
    pairs = list(combinations(range(len(texts)), 2))
    if sum(len(said[one]) * len(said[other]) for one, other in pairs) > MOST_PAIRS:
        return [[] for _ in texts]
    shared: list[set[int]] = [set() for _ in texts]
    for one, other in pairs:
        blocks = SequenceMatcher(None, said[one], said[other], autojunk=False).get_matching_blocks()
        for a, b, size in blocks:
            shared[one] |= set(range(a, a + size))
            shared[other] |= set(range(b, b + size))
    if len(texts) < 2:
        return [[] for _ in texts]
    return [
        _join(text, [Span(*word.span()) for at, word in enumerate(one) if at not in same])
        for text, one, same in zip(texts, words, shared, strict=True)
    ]


def _join(text: str, spans: Sequence[Span]) -> list[Span]:
    """Return spans between which there are only blanks as one."""
    if not spans:
        return []
    breaks = [
        (before.end, after.begin)
        for before, after in pairwise(spans)
        if text[before.end : after.begin].strip()
    ]
    begins = [spans[0].begin, *(begin for _, begin in breaks)]
    ends = [*(end for end, _ in breaks), spans[-1].end]
    return [Span(*span) for span in zip(begins, ends, strict=True)]
