"""The words of the scripted demo model: a prompt in, a prewritten reply out, cut into tokens.

Everything here is pure and gives the same answer on every machine and Python version. The texts,
and the rules that read a prompt, are data: `prose_en.toml` and `prose_zh.toml`.
"""

from __future__ import annotations

import functools
import hashlib
import re
import tomllib
from dataclasses import dataclass
from importlib import resources
from typing import Any, TypeVar

_T = TypeVar("_T")
LONG_REPLY_TOKENS = 10_000

# What belongs to the character before it: combining marks, variation selectors, skin tones, tags.
_EXTENDERS = "\u0300-\u036f\u20d0-\u20ff\ufe00-\ufe0f\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f"
_NOT_EXTENDED = f"(?![{_EXTENDERS}\u200d])"
_HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
# Explicit ranges, because the meaning of \w moves with the Unicode version of Python.
_TOKEN = re.compile(
    f" ?[A-Za-z0-9\u00c0-\u024f'\u2019]{{1,10}}[,.;:]?{_NOT_EXTENDED}"  # a word, or part of one
    f"|[{_HAN}]{{1,2}}{_NOT_EXTENDED}"
    f"|\n{{0,4}} {{0,8}}[!-/:-@\\[-`{{-~]{{1,4}}{_NOT_EXTENDED}"  # ASCII marks and their indent
    f"|[\n ]{{2,8}}{_NOT_EXTENDED}"
    "|[\U0001f1e6-\U0001f1ff]{2}"  # a flag is a pair of letters
    f"|.(?:[{_EXTENDERS}]|\u200d.?)*",  # any other character with all that hangs on it
    re.DOTALL,
)
_HAS_HAN = re.compile(f"[{_HAN}]")
_EDGES = " \t.,:;!?\"'`*#_~-“”‘’。，、：；！？…—"
_SLOT = re.compile(r"\{([A-Za-z]+)(\d*)\}")
_READ_CHARS = 2_000  # a topic stands near the start; reading stays fast whatever is pasted
_LONG_KINDS = ("explain", "story", "list", "poem", "other")


def write_reply(prompt: str, *, seed: int | None = None) -> str:
    """Return the prewritten reply to a prompt: a poem, a story, an explanation, a list, code.

    Args:
        prompt: What the user asked, English or Chinese; its topic is woven in as plain text.
        seed: Another seed draws other texts; the same seed and prompt give the same reply.
    """
    reading = read_prompt(prompt)
    text = _compose(reading, reading.kind, Dice(f"{prompt}\x1f{seed}"))
    return text if reading.kind == "poem" else f"{text}\n\n{reading.language['hint']}"


def write_line(kind: str, prompt: str, *, seed: int | None = None) -> str:
    """Return what a model says beside or instead of a reply: reasoning, a refusal, an opening.

    Args:
        kind: Its texts in the data.
        prompt: What the user asked.
        seed: Another seed draws other texts.
    """
    return _compose(read_prompt(prompt), kind, Dice(f"{prompt}\x1f{seed}\x1f{kind}"))


def write_long_reply(prompt: str, *, seed: int | None = None) -> str:
    """Return a reply of about `LONG_REPLY_TOKENS` tokens: many numbered parts on one topic.

    Args:
        prompt: What the user asked.
        seed: Another seed draws other texts.
    """
    reading = read_prompt(prompt)
    parts: list[str] = []
    count = 0
    while count < LONG_REPLY_TOKENS:
        number = len(parts) + 1
        kind = _LONG_KINDS[len(parts) % len(_LONG_KINDS)]
        text = _compose(reading, kind, Dice(f"{prompt}\x1f{seed}\x1f{number}"))
        parts.append(f"{reading.language['part'].replace('{number}', str(number))}\n\n{text}")
        count += len(split_tokens(parts[-1]))
    return "\n\n".join([*parts, reading.language["hint"]])


def split_tokens(text: str) -> list[str]:
    """Return the text in pieces of about five bytes; joined they are the text again.

    A piece never parts a character from its accents, or an emoji from its modifiers.
    """
    return _TOKEN.findall(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a prompt was understood to ask for.

    Attributes:
        kind: One of poem, story, explain, list, code, other.
        topic: What it is about, a noun phrase in one line, never empty.
        title: The topic as a heading.
        language: The texts and rules of the prompt's language.
    """

    kind: str
    topic: str
    title: str
    language: dict[str, Any]


def read_prompt(prompt: str) -> Reading:
    """Return the language, kind and topic of a prompt."""
    line = " ".join(prompt[:_READ_CHARS].split())
    language = _language("zh" if _HAS_HAN.search(line) else "en")
    line = re.sub(language["polite"], "", line).strip(_EDGES) or line
    for rule in language["rules"]:
        if found := re.match(rule["pattern"], line, re.DOTALL):
            topic = _trim_topic(found["topic"], language)
            return _reading(rule, topic or language["default_topic"], language)
    raise AssertionError("the last rule matches everything")


def _reading(rule: dict[str, Any], topic: str, language: dict[str, Any]) -> Reading:
    """A question is no noun phrase, so it is quoted in sentences and bare in a title."""
    title = topic[:1].upper() + topic[1:]
    if rule.get("quote"):
        title = language["question_title"].replace("{topic}", title)
        topic = language["question"].replace("{topic}", topic)
    return Reading(kind=rule["kind"], topic=topic, title=title, language=language)


def _trim_topic(raw: str, language: dict[str, Any]) -> str:
    """The first sentence, without edge punctuation, of a length that fits into a sentence."""
    sentence = re.split(language["sentence_end"], raw.strip(_EDGES), maxsplit=1)[0]
    return _shorten(re.sub(language["tail"], "", sentence).strip(_EDGES), language["topic_limit"])


def _shorten(text: str, limit: int) -> str:
    """Cut between tokens, so that no word and no emoji is cut in two."""
    if len(text) <= limit:
        return text
    kept = ""
    for token in split_tokens(text):
        if len(kept) + len(token) > limit:
            break
        kept += token
    whole_words = kept.rpartition(" ")[0]
    return (whole_words if len(whole_words) > limit // 2 else kept[:limit]).rstrip(_EDGES) + "…"


def _compose(reading: Reading, kind: str, dice: Dice) -> str:
    """Draw a text of this kind and fill its slots."""
    language, topic = reading.language, reading.topic
    if kind == "poem":
        topic = _shorten(topic, language["line_limit"])
    topics = {"topic": topic, "Topic": topic[:1].upper() + topic[1:], "title": reading.title}
    slots = _Slots(topics, language["pools"], dice)
    text = slots.fill(dice.pick(language["texts"][kind]).strip())
    if kind != "poem":
        return text
    # Two spaces at a line's end keep the three lines apart where the text is shown as Markdown.
    return re.sub(r"(?<!\n)\n(?!\n)", "  \n", text)


class _Slots:
    """Fills `{topic}` and draws from pools; an entry is drawn once and kept for the whole text."""

    def __init__(self, topics: dict[str, str], pools: dict[str, list[str]], dice: Dice) -> None:
        self._topics = topics
        self._pools = pools
        self._dice = dice
        self._drawn: dict[str, list[str]] = {}

    def fill(self, template: str) -> str:
        # Only templates are searched for slots, never the topic: braces in a prompt stay braces.
        return _SLOT.sub(self._value, template)

    def _value(self, slot: re.Match[str]) -> str:
        name, number = slot.groups()
        if name in self._topics:
            return self._topics[name]
        if name not in self._drawn:
            self._drawn[name] = self._dice.shuffle(self._pools[name])
        return self.fill(self._drawn[name][int(number or 1) - 1])


class Dice:
    """Random choices out of sha256: `random` promises no stable choices between versions.

    Args:
        key: The same key rolls the same.
    """

    def __init__(self, key: str) -> None:
        self._key = hashlib.sha256(key.encode("utf-8", "replace")).digest()
        self._rolls = 0

    def pick(self, options: list[_T]) -> _T:
        """Return one of them."""
        self._rolls += 1
        digest = hashlib.sha256(self._key + b"\x1f%d" % self._rolls).digest()
        return options[int.from_bytes(digest[:8], "big") % len(options)]

    def shuffle(self, options: list[_T]) -> list[_T]:
        """Return them in another order."""
        rest, order = list(options), []
        while rest:
            order.append(self.pick(rest))
            rest.remove(order[-1])
        return order


@functools.cache
def _language(code: str) -> dict[str, Any]:
    """The texts of one language, read once and only when first needed."""
    source = resources.files("longtask_kit.local.model").joinpath(f"prose_{code}.toml")
    return tomllib.loads(source.read_text(encoding="utf-8"))
