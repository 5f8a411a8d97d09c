"""Front ends while webhook processes die: a client shows what the model said, or an error."""

import contextlib
import json
import random
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import httpx
import openai
import pytest

from tests.chaos.recording_model import Call, text_of, tokens_of
from tests.chaos.rig import Rig, new_prompt, open_rig
from tests.front_ends.conftest import RunNode, node  # noqa: F401 - a fixture

pytestmark = [pytest.mark.gate, pytest.mark.timeout(3600)]
Figures = Callable[[str, str], None]


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with open_rig() as opened:
        yield opened


class Killer:
    """Kills the serving process, mostly at a token of a first attempt."""

    def __init__(self, rig: Rig) -> None:
        self._rig, self._rng = rig, random.Random(1)
        self.kills = 0
        self._targets: dict[str, int] = {}
        rig.model.after_write = self._strike

    def aim(self, prompt: str) -> None:
        """Choose a token of what answers a prompt."""
        self._targets[prompt] = self._rng.randrange(len(tokens_of(prompt, 1)))

    async def _strike(self, call: Call) -> None:
        at = self._targets.get(call.prompt)
        if at is not None and call.tokens > at:
            del self._targets[call.prompt]
            self._rig.hooks.kill()
            self.kills += 1


def test_a_response_read_while_webhooks_are_killed_is_exact(
    rig: Rig, scale: Callable[..., int], figures: Figures
) -> None:
    killer = Killer(rig)
    cuts = restarts = 0
    while killer.kills < scale(short=6, full=200):
        prompt = new_prompt()
        killer.aim(prompt)
        with contextlib.closing(Reader(rig, prompt)) as reader:
            final = reader.read_to_the_end()
        assert final.status == "completed"
        attempt = reader.attempts.pop()
        assert final.output_text == text_of(prompt, attempt)
        assert reader.text in ("", final.output_text), "what was streamed to its end is whole"
        cuts, restarts = cuts + reader.cuts, restarts + reader.restarts
    figures(
        "12 webhook killed, responses streamed by the openai SDK",
        f"{killer.kills} kills, {cuts} streams cut and continued, {restarts} told to start over",
    )


@pytest.mark.parametrize(
    ("script", "what"),
    [
        pytest.param(
            "ai_sdk_kills.mjs", "chats streamed by npm's ai 6 and 7", marks=pytest.mark.thorough
        ),
        ("ag_ui_kills.mjs", "runs streamed by npm's @ag-ui/client"),
    ],
    ids=["ai_sdk", "ag_ui"],
)
def test_a_chat_read_while_webhooks_are_killed_is_exact_and_never_mixed(
    rig: Rig,
    node: RunNode,  # noqa: F811 - pytest's way
    scale: Callable[..., int],
    figures: Figures,
    script: str,
    what: str,
) -> None:
    killer = Killer(rig)
    lost = looks = 0
    while killer.kills < scale(short=12, full=200):
        prompts = [new_prompt() for _ in range(3)]
        for prompt in prompts:
            killer.aim(prompt)
        told = node(script, json.dumps(prompts), BASE_URL=rig.entrance.url)
        for chat in map(json.loads, told.splitlines()):
            check_shown(chat["prompt"], chat["texts"])
            lost, looks = lost + chat["lost"], looks + len(chat["texts"])
    figures(
        f"12 webhook killed, {what}",
        f"{killer.kills} kills, {lost} streams lost and taken up, {looks} texts looked at",
    )


def check_shown(prompt: str, texts: list[str]) -> None:
    """Check that each text was one attempt's, never an earlier one's again, and the last whole."""
    attempt = 1
    for text in texts:
        # None is shown while an attempt's first words are awaited.
        while not text_of(prompt, attempt).startswith(text):
            attempt += 1
            assert attempt < 14, f"two attempts mixed, or one came back: {text!r}"
    assert texts[-1] == text_of(prompt, attempt)


class Reader:
    """Reads a response as the SDK's users do, and asks again whatever happens."""

    def __init__(self, rig: Rig, prompt: str) -> None:
        self._prompt = prompt
        self._sdk = openai.OpenAI(base_url=f"{rig.entrance.url}/v1", api_key="any", max_retries=0)
        self.text, self.cursor = "", -1
        self.cuts = self.restarts = 0
        self.attempts: list[int] = []
        key = {"Idempotency-Key": quote(prompt)}  # asked again, should the answer be lost
        asked: Any = {"model": "demo", "input": prompt, "max_output_tokens": 1000}
        asked |= {"background": True, "extra_headers": key}
        self.response_id = self._insist(lambda: self._sdk.responses.create(**asked)).id

    def close(self) -> None:
        """Close the connections."""
        self._sdk.close()

    def read_to_the_end(self) -> Any:  # noqa: ANN401 - the SDK's
        """Stream, continue where it was cut, begin again where it was told to; then retrieve."""
        type_ = ""
        while type_ != "response.completed":
            with contextlib.suppress(openai.APIConnectionError, httpx.HTTPError):
                type_ = self._read_on()
            self.cuts += type_ not in ("response.completed", "response.failed")
            if type_ == "response.failed":
                self.text, self.cursor, type_ = "", -1, ""
                self.restarts += 1
        return self._insist(lambda: self._sdk.responses.retrieve(self.response_id))

    def _read_on(self) -> str:
        place: Any = {} if self.cursor < 0 else {"starting_after": self.cursor}
        type_ = ""
        for event in self._sdk.responses.retrieve(self.response_id, stream=True, **place):
            assert event.sequence_number > self.cursor
            self.cursor, type_ = event.sequence_number, event.type
            if event.type == "response.output_text.delta":
                self.text += event.delta
                attempt = event.sequence_number >> 32
                assert text_of(self._prompt, attempt).startswith(self.text), "two attempts mixed"
                self.attempts.append(attempt)
        return type_

    def _insist(self, ask: Callable[[], Any]) -> Any:  # noqa: ANN401
        while True:
            with contextlib.suppress(openai.APIConnectionError):
                return ask()
