"""Where a long answer is folded, as `js/src/fold.js` folds a live one."""

from __future__ import annotations

import re
from itertools import accumulate

_LINE = 88  # characters of a line of text
_TALLEST = 22  # lines a box of code or a table shows before it scrolls
_LONGEST = 40  # lines of an answer that is not folded
_SHOWN = 24  # lines of one that is, at least
_BOXED = re.compile(r"```|~~~|\||\$\$")


def count_lines(source: str) -> int:
    """Return how many lines a block takes, about; `source` is its markdown."""
    text = source.strip()
    lines = sum(max(1, -(-len(line) // _LINE)) for line in text.split("\n"))
    return 1 + (min(lines, _TALLEST) if _BOXED.match(text) else lines)


def find_fold(sources: list[str]) -> int:
    """Return how many blocks stand above the fold: all when there is nothing to fold."""
    lines = [count_lines(source) for source in sources]
    if sum(lines) <= _LONGEST:
        return len(sources)
    at = next(n for n, shown in enumerate(accumulate(lines), 1) if shown >= _SHOWN)
    return len(sources) if at == len(sources) - 1 else at
