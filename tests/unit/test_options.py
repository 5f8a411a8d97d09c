"""Options of the command line and of the magics, which are text, to what is asked."""

import json
from pathlib import Path
from typing import Any

import pytest

import longtask_kit as lt
from longtask_kit.client.options import read_spec

SAID = [{"role": "user", "content": "One?"}]


@pytest.fixture
def said(tmp_path: Path) -> Path:
    path = tmp_path / "said.json"
    path.write_text(json.dumps(SAID))
    return path


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "cat.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\nx")
    return path


@pytest.mark.parametrize("prompt", ["", " \n", None])
def test_a_blank_prompt_beside_a_conversation_or_an_image_is_none(
    said: Path, picture: Path, prompt: str | None
) -> None:
    assert read_spec(prompt=prompt, messages=said).messages == SAID
    shown = [{"role": "user", "content": [lt.image(picture)]}]
    assert read_spec(prompt=prompt, images=[str(picture)]).messages == shown
    both = read_spec(prompt=prompt, images=[str(picture)], messages=said)
    assert both.messages == [*SAID, *shown]


def test_a_file_is_read_with_a_byte_order_mark_and_from_home(
    said: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said.write_text(json.dumps(SAID), encoding="utf-8-sig")
    monkeypatch.setenv("HOME", str(said.parent))
    monkeypatch.setenv("USERPROFILE", str(said.parent))
    assert read_spec(prompt=None, messages=Path("~/said.json")).messages == SAID
    with pytest.raises(lt.SubmitError, match=r"--messages: ~nobody-here/said.json can't be read"):
        read_spec(prompt=None, messages=Path("~nobody-here/said.json"))


def test_a_blank_prompt_alone_is_refused() -> None:
    with pytest.raises(lt.SubmitError, match=r'^"PROMPT" is empty'):
        read_spec(prompt=" ")


def test_none_leaves_a_number_to_the_model_service() -> None:
    spec = read_spec(prompt="x", max_tokens="none", temperature="None")
    assert (spec.max_tokens, spec.temperature) == (None, None)
    spec = read_spec(prompt="x", max_tokens="5", temperature="1")
    assert (spec.max_tokens, spec.temperature) == (5, 1.0)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"params": ["n=2"]}, '"--param n" must be 1'),
        ({"params": ["temperature=1"]}, '"--param temperature" is set .* as --temperature[.]'),
        ({"params": ["prompt=x"]}, '"--param prompt" is set .*: give it as PROMPT[.]'),
        ({"params": ['stop=["a", NaN]']}, r'"--param stop\[1\]" is nan'),
        ({"metadata": ["a=Infinity"]}, '"--metadata a" is inf'),
        ({"metadata": [f"a={'x' * 20_000}"]}, '"--metadata" has 20'),
        ({"metadata": ["a"]}, "--metadata 'a': expected name=value"),
        ({"timeout": 0.1}, '"--timeout" is 0.1'),
        ({"max_tokens": "0"}, '"--max-tokens" is 0'),
        ({"temperature": "hot"}, "--temperature is 'hot': expected a number, or none"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_wrong_is_told_by_the_name_that_was_typed(
    options: dict[str, Any], told: str
) -> None:
    with pytest.raises(lt.SubmitError, match=told):
        read_spec(prompt="x", **options)


def test_a_message_of_a_file_is_told_by_its_option_and_place(tmp_path: Path) -> None:
    path = tmp_path / "wrong.json"
    path.write_text('[{"role": "user"}]')
    with pytest.raises(lt.SubmitError, match=r'^"--messages\[0\]\.content" is missing'):
        read_spec(prompt=None, messages=path)


def test_a_list_that_lost_its_quotes_to_the_shell_is_no_parameter() -> None:
    spec = read_spec(prompt="x", params=['stop=["a", "b"]', "suffix=[", "user={me}, and more"])
    assert spec.params == {"stop": ["a", "b"], "suffix": "[", "user": "{me}, and more"}
    for text in ("stop=[a, b]", "logit_bias={50256: -100}"):
        with pytest.raises(lt.SubmitError, match=r"--param \w+ is .*: expected JSON; quote all"):
            read_spec(prompt="x", params=[text])
