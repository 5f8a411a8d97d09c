"""Chat completions that go on behind a text: which service can, and what it is asked then.

vLLM and servers like it continue a last assistant message: docs.vllm.ai, OpenAI-compatible server,
`continue_final_message` and `add_generation_prompt`. Nothing else of the request says whether they
do, so they are asked: `PROBE`, and only once an attempt was cut.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from longtask_kit.submit.spec import TaskSpec

CONTINUES_HEADER = "X-Continues-Final-Message"
"""By which a service says so itself: `true`, `false`, or `token_ids`, which its chunks hold."""

RAW, IDS, TEXT, UNKNOWN, NEVER = "raw", "ids", "text", "?", ""
"""Ways of a service: it says that it can, behind a text or tokens; a probe showed it; nobody has
asked; it can't."""

_FLAGS = {"continue_final_message": True, "add_generation_prompt": False}
# What else a request may hold and still be continued: a schema, tools and penalties look at what
# was generated, which would be a part of the prompt then.
_NEUTRAL = frozenset(
    ("top_p", "top_k", "min_p", "seed", "stop", "max_completion_tokens", "stream_options", "user")
)
_PROBE_PROMPT = "Count from one to twenty in English words, separated by commas. Only the words."
_PROBE_TOKENS = 16
_LEAST_CHARS = 4


def is_continuable(spec: TaskSpec) -> bool:
    """Tell whether an answer to it could be continued as the last message of its prompt."""
    ends_in_answer = spec.to_messages()[-1]["role"] == "assistant"
    return spec.api != "responses" and not ends_in_answer and _NEUTRAL.issuperset(spec.params)


def find_way(spec: TaskSpec, base_url: str | None, headers: Mapping[str, str]) -> str:
    """Return how a service may continue what it has begun to say, as far as its answer tells."""
    said = headers.get(CONTINUES_HEADER, "").strip().lower()
    if said == "false" or not is_continuable(spec):
        return NEVER
    if said in ("true", "token_ids"):
        return RAW if said == "true" else IDS
    host = urlsplit(base_url or "").hostname or "api.openai.com"
    return NEVER if host == "api.openai.com" else UNKNOWN


def aim_behind(
    request: dict[str, Any], text: str, *, tokens: int, way: str, ids: Sequence[int] = ()
) -> int | None:
    """Have a request ask for what comes behind a text.

    Args:
        request: Of chat completions; it is changed.
        text: What stands of the answer.
        tokens: How many it is; of `RAW` and `TEXT` its deltas are counted.
        way: `RAW`, `IDS` or `TEXT`; templates of the latter may strip white space at its end, which
            the model then says again.
        ids: The tokens that it is, of `IDS`.

    Returns:
        How many characters it goes on behind; None: nothing is left of the limit.
    """
    for name in ("max_tokens", "max_completion_tokens"):
        if isinstance(limit := request.get(name), int):
            if limit <= tokens:
                return None
            request[name] = limit - tokens
    kept = text.rstrip() if way == TEXT else text
    last: dict[str, Any] = {"role": "assistant", "content": kept}
    if way == IDS:
        last["token_ids"] = [*ids]
    request.update(_FLAGS, messages=[*request["messages"], last])
    return len(kept)


@dataclass(frozen=True, slots=True)
class Probe:
    """Two short requests: a service that continues says the same in one part and in two."""

    model: str

    def ask_whole(self) -> dict[str, Any]:
        """Return the first request."""
        messages = [{"role": "user", "content": _PROBE_PROMPT}]
        limits = {"max_tokens": _PROBE_TOKENS, "temperature": 0}
        return {"model": self.model, "messages": messages, "stream": True, **limits}

    def cut(self, whole: str) -> str | None:
        """Return the part of the first answer to go on behind; None: it is too short to tell."""
        head = whole[: whole.rfind(" ", 0, len(whole) // 2 + 1)].rstrip()
        return head if min(len(head), len(whole) - len(head)) >= _LEAST_CHARS else None

    def ask_rest(self, head: str) -> dict[str, Any]:
        """Return the second request."""
        request = self.ask_whole() | {"max_tokens": _PROBE_TOKENS // 2}
        aim_behind(request, head, tokens=0, way=TEXT)
        return request

    def agrees(self, whole: str, head: str, rest: str) -> bool:
        """Tell whether the second answer goes on where the first was cut."""
        expected = whole[len(head) :]
        least = min(len(rest), len(expected))
        return least >= _LEAST_CHARS and rest[:least] == expected[:least]
