"""Code in six colours: keyword, string, function, comment, number, type."""

from __future__ import annotations

import re
from functools import cache
from html import escape
from itertools import groupby
from typing import TYPE_CHECKING

from pygments.lexers import get_lexer_by_name  # type: ignore[import-untyped]
from pygments.token import Comment, Generic, Keyword, Name, Number, Operator, String  # type: ignore[import-untyped]
from pygments.util import ClassNotFound  # type: ignore[import-untyped]

if TYPE_CHECKING:
    from pygments.lexer import Lexer  # type: ignore[import-untyped]
    from pygments.token import _TokenType

_LONGEST = 20_000  # characters; longer code is not coloured, here and in a live card
_CLASSES = (  # the first that holds counts
    (Keyword.Constant, "n"),
    (Keyword.Type, "t"),
    (Keyword, "k"),
    (Operator.Word, "k"),
    (Comment, "c"),
    (String, "s"),
    (Number, "n"),
    (Name.Function, "f"),
    (Name.Decorator, "c"),
    (Name.Tag, "f"),
    (Name.Attribute, "f"),
    (Name.Class, "f"),
    (Name.Builtin.Pseudo, "t"),
    (Name.Builtin, "t"),
    (Name.Exception, "t"),
    (Generic.Inserted, "s"),
    (Generic.Deleted, "k"),
    (Generic.Heading, "f"),
)
_LANGUAGES = frozenset(
    re.findall(
        r"\S+",
        "bash sh zsh shell console c h cpp c++ cc hpp csharp c# cs css diff patch go golang ini "
        "toml java javascript js jsx mjs json jsonc julia jl kotlin kt lua python py py3 r ruby rb "
        "rust rs sql typescript ts tsx xml html svg yaml yml",
    )
)


def highlight(code: str, language: str) -> str:
    """Return code as HTML, its text escaped, its tokens in one of six classes."""
    lexer = _find_lexer(language.lower())
    if lexer is None or len(code) > _LONGEST:
        return escape(code)
    tokens = [(_classify(kind), text) for kind, text in lexer.get_tokens(code)]
    pieces = []
    for name, run in groupby(tokens, key=lambda token: token[0]):
        text = escape("".join(text for _, text in run))
        pieces.append(f'<span class="lt-{name}">{text}</span>' if name else text)
    return "".join(pieces)


@cache
def _find_lexer(language: str) -> Lexer | None:
    if language not in _LANGUAGES:
        return None
    try:
        found: Lexer = get_lexer_by_name(language, stripnl=False, ensurenl=False)
    except ClassNotFound:
        return None
    return found


@cache
def _classify(kind: _TokenType) -> str:
    return next((name for wanted, name in _CLASSES if kind in wanted), "")
