"""Stage 1: whatever a model takes can be asked, and arrives at it as it was given."""

import json
import struct
import zlib
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import httpx
import pytest
from pydantic import BaseModel

import longtask_kit as lt
from longtask_kit.log.keys import input_key

HTTP = httpx.Client(timeout=60)
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}


class City(BaseModel):
    """What an answer is to be."""

    name: str
    people: int = 7


def say(*items: Any, finish_reason: str = "stop") -> Any:  # noqa: ANN401 - a handler
    """Return a handler that yields these."""

    async def handler(_: lt.TaskContext) -> AsyncIterator[Any]:
        for item in items:
            yield item
        yield lt.Outcome(finish_reason=finish_reason)

    return handler


async def echo(context: lt.TaskContext) -> AsyncIterator[str]:
    """Answer with the messages that would be sent."""
    yield json.dumps(context.spec.to_messages(), ensure_ascii=False)


HANDLERS = {
    "echo": echo,
    "tools": say(
        lt.Delta("reasoning", "Hm, "),
        lt.Delta("reasoning", "the weather."),
        lt.Delta("tool_calls", json.dumps([CALL])),
        finish_reason="tool_calls",
    ),
    "refuses": say(lt.Delta("refusal", "I can't "), lt.Delta("refusal", "help.")),
    "cut": say(lt.Delta("reasoning", "and so on"), finish_reason="length"),
    "tells": say(
        lt.Progress(1, 3, "indexing"),
        lt.DataEvent("rows", [{"a": "é"}]),
        "done",
        lt.Progress(3, 3),
    ),
    "json": say('{"name": "Ulm", ', '"people": 130000}'),
    "no-json": say("Ulm"),
}


@pytest.fixture(scope="module")
def kit(stack: lt.LocalStack) -> Iterator[lt.Kit]:
    """A kit whose tasks run in an app of this process, with the handlers above."""
    with lt.connect(settings=stack.settings, quiet=True) as kit:
        kit.serve(HANDLERS)
        yield kit


def make_png(size_bytes: int) -> bytes:
    """Return a picture of that size: noise does not get smaller."""
    rows = b"\0" + bytes(range(256)) * (size_bytes // 256)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)), (b"IDAT", rows)]
    made = b"".join(
        struct.pack(">I", len(d)) + name + d + struct.pack(">I", zlib.crc32(name + d))
        for name, d in [*chunks, (b"IEND", b"")]
    )
    return b"\x89PNG\r\n\x1a\n" + made


def test_a_conversation_with_an_image_of_5_mb_arrives_whole(kit: lt.Kit) -> None:
    parts = [{"type": "text", "text": "What is this? 长"}, lt.image(make_png(5_000_000))]
    task = kit.submit(messages=[{"role": "user", "content": parts}], system="s", handler="echo")
    sent = [{"role": "system", "content": "s"}, {"role": "user", "content": parts}]
    assert json.loads(task.result(60)) == sent
    found = kit.attach(task.id)
    assert found.messages == sent
    assert found.prompt == "What is this? 长"


def test_a_record_stays_small_and_its_input_leaves_with_it(kit: lt.Kit, redis: Any) -> None:  # noqa: ANN401
    task = kit.submit("x" * 2_500_000, handler="json", metadata={"a": 1})
    task.result(60)
    record = redis.hgetall(f"longtask:{{{task.id}}}")
    assert sum(map(len, record.values())) < 1_000
    assert redis.hlen(input_key(task.id)) == 3
    assert redis.ttl(input_key(task.id)) > 60
    assert kit.attach(task.id).metadata == {"a": 1}
    task.delete()
    assert not redis.exists(input_key(task.id))


def test_what_is_too_large_is_refused_before_anything_is_sent(kit: lt.Kit) -> None:
    with pytest.raises(lt.SubmitError, match="at most 20,000,000") as caught:
        kit.submit("长" * 7_000_000)
    assert caught.value.task_id is None


@pytest.mark.parametrize("handler", ["echo"])
def test_a_reply_holds_what_was_said_before(kit: lt.Kit, handler: str) -> None:
    first = kit.submit("One?", system="Be terse.", handler=handler, params={"seed": 7})
    said = first.result(30)
    second = first.reply("Two?", max_tokens=5)
    expected: list[dict[str, Any]] = [
        {"role": "system", "content": "Be terse."},
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": said},
        {"role": "user", "content": "Two?"},
    ]
    assert json.loads(second.result(30)) == expected
    assert (second.spec.params, second.spec.max_tokens) == ({"seed": 7}, 5)


def test_tool_calls_are_shown_and_answered_by_the_one_who_asked(kit: lt.Kit) -> None:
    task = kit.submit("Weather?", handler="tools")
    assert task.result(30) == ""
    assert task.reasoning == "Hm, the weather."
    assert task.tool_calls == [CALL]
    assert task.message == {"role": "assistant", "content": None, "tool_calls": [CALL]}
    assert repr(task) == f"<Task {task.id} completed, 1 tool call>"
    reply = task.reply(tool_results={"call_1": {"celsius": 12}}, handler="echo")
    assert json.loads(reply.result(30))[-1] == {
        "role": "tool",
        "tool_call_id": "call_1",
        "content": '{"celsius": 12}',
    }
    with pytest.raises(lt.SubmitError, match=r"missing are \['call_1'\]"):
        task.reply("and?")
    with pytest.raises(lt.SubmitError, match=r"there is no call \['call_2'\]"):
        task.reply(tool_results={"call_1": "12", "call_2": "x"})


def test_an_end_that_is_none_says_so(kit: lt.Kit) -> None:
    cut = kit.submit("x", handler="cut", max_tokens=50)
    assert cut.result(30) == ""
    note = r"stopped at max_tokens \(50\), all of it used for reasoning"
    with pytest.raises(lt.TaskIncompleteError, match=note) as caught:
        cut.raise_for_finish()
    assert caught.value.finish_reason == "length"
    refused = kit.submit("x", handler="refuses")
    refused.result(30)
    assert refused.refusal == "I can't help."
    assert refused.message["refusal"] == "I can't help."
    assert "refused" in repr(refused)
    whole = kit.submit("x", handler="json")
    assert whole.raise_for_finish() is whole


def test_a_handler_tells_progress_and_data(kit: lt.Kit) -> None:
    task = kit.submit("x", handler="tells")
    assert task.result(30) == "done"
    assert task.data == {"progress": {"done": 3, "total": 3}, "rows": [{"a": "é"}]}
    told = [event.name for event in task.events() if event.type == "data"]
    assert told == ["progress", "rows", "progress"]


SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}


def test_an_answer_is_parsed_as_its_schema_says(kit: lt.Kit) -> None:
    task = kit.submit("A city", schema=City, handler="json")
    task.result(30)
    assert task.parsed == City(name="Ulm", people=130000)
    assert task.parse_error is None
    assert kit.attach(task.id).parsed == {"name": "Ulm", "people": 130000}
    assert kit.attach(task.id, schema=City).parsed == task.parsed
    asked = task.spec.params["response_format"]["json_schema"]
    assert (asked["name"], asked["strict"]) == ("City", True)
    assert asked["schema"]["required"] == ["name", "people"]
    assert asked["schema"]["additionalProperties"] is False
    assert "default" not in asked["schema"]["properties"]["people"]


@pytest.mark.parametrize("schema", [City, SCHEMA])
def test_an_answer_that_is_something_else_keeps_its_text(kit: lt.Kit, schema: Any) -> None:  # noqa: ANN401
    task = kit.submit("A city", schema=schema, handler="no-json")
    assert task.result(30) == "Ulm"
    assert task.parsed is None
    assert task.parse_error


def test_a_json_schema_is_checked_too(kit: lt.Kit) -> None:
    wrong = {**SCHEMA, "properties": {"name": {"type": "integer"}}}
    task = kit.submit("A city", schema=wrong, handler="json")
    task.result(30)
    assert task.parsed is None
    assert task.parse_error is not None
    assert task.parse_error.startswith("$.name: ")
    with pytest.raises(lt.SubmitError, match='"schema" must be'):
        kit.submit("x", schema={"nope": 1})


def test_a_chat_remembers_what_was_said_and_leaves_out_what_failed(kit: lt.Kit) -> None:
    chat = kit.chat(system="Be terse.", handler="echo")
    first = chat.send("One?")
    second = chat.send("Two?")  # waits for the first
    said = json.loads(second.result(30))
    assert [message["role"] for message in said] == ["system", "user", "assistant", "user"]
    assert said[2]["content"] == first.text
    failed = chat.send("Three?", handler="none of that name")
    with pytest.raises(lt.TaskFailedError):
        failed.result(30)
    fourth = chat.send([{"type": "text", "text": "Four?"}])
    texts = [message["content"] for message in json.loads(fourth.result(30))]
    assert "Three?" not in texts
    assert [task.id for task in chat.tasks] == [first.id, second.id, failed.id, fourth.id]
    assert chat.messages[-1] == fourth.message


@pytest.mark.parametrize("asked", [{"prompt": "One?"}, {"messages": [{"role": "user"}]}])
def test_a_chat_says_where_what_is_asked_goes(kit: lt.Kit, asked: dict[str, Any]) -> None:
    with pytest.raises(lt.SubmitError, match=r"chat\(\) takes no .* goes to send\(\)"):
        kit.chat(**asked)


def test_a_turn_stays_as_it_was_sent_when_its_parts_change(kit: lt.Kit) -> None:
    chat = kit.chat(handler="echo")
    parts = [{"type": "text", "text": "One?"}]
    chat.send(parts)
    parts[0]["text"] = "Two?"
    chat.send("Three?")
    assert chat.messages[0]["content"] == [{"type": "text", "text": "One?"}]


def test_what_no_answer_can_be_parsed_as_is_refused_when_attached(kit: lt.Kit) -> None:
    task = kit.submit("A city", handler="json")
    with pytest.raises(lt.SubmitError, match=r'"schema" must be .*, got type'):
        kit.attach(task.id, schema=int)  # type: ignore[arg-type]
    with pytest.raises(lt.ConfigError, match=r"`status` is .*: expected one of"):
        kit.tasks(status=["failed"])  # type: ignore[arg-type]


def test_a_reply_and_a_message_of_a_chat_take_a_schema(kit: lt.Kit) -> None:
    first = kit.submit("Hello", handler="echo")
    first.result(30)
    chat = kit.chat(handler="json")
    for task in (first.reply("A city", schema=City, handler="json"), chat.send("?", schema=City)):
        task.result(30)
        assert task.parsed == City(name="Ulm", people=130000)
        assert task.spec.params["response_format"]["json_schema"]["name"] == "City"
        assert task.reply("And?", schema=None, params=None).spec.params == {}
    with pytest.raises(lt.SubmitError, match=r"reply\(\) got .* \(did you mean 'model'\?\)"):
        first.reply("x", modle="demo")


def test_a_chat_answers_tool_calls(kit: lt.Kit) -> None:
    chat = kit.chat(handler="tools")
    chat.send("Weather?")
    with pytest.raises(lt.SubmitError, match="missing are"):
        chat.send("and?")
    reply = chat.send(tool_results={"call_1": "12 °C"}, handler="echo")
    assert json.loads(reply.result(30))[1]["tool_calls"] == [CALL]


def test_the_same_over_http_and_unknown_fields_are_named(
    kit: lt.Kit, settings: lt.Settings
) -> None:
    served = kit.settings
    assert served is not None
    url = f"{served.base_url}/api/tasks"
    messages: Sequence[dict[str, Any]] = [{"role": "user", "content": "é"}]
    body = {"messages": messages, "handler": "echo", "temperature": None, "params": {"seed": 1}}
    task_id = HTTP.post(f"{url}/start", json=body).json()["taskId"]
    assert json.loads(kit.attach(task_id).result(30)) == messages
    held = HTTP.get(f"{url}/{task_id}/input").json()["input"]
    assert held == body | {"maxTokens": 1000}
    answer = HTTP.post(f"{url}/start", json={"prompt": "x", "maxToken": 5, "stop": 1})
    assert answer.status_code == 400
    assert '"maxToken" is no field of ours. "stop" is no field' in answer.json()["error"]
    answer = HTTP.post(f"{url}/start", json={"messages": [{"role": "user"}]})
    assert answer.json()["error"].startswith('"messages[0].content" is missing')
    with lt.connect(served.base_url, quiet=True) as client:
        task = client.submit(messages=messages, handler="tools")
        assert task.result(30) == ""
        assert (task.tool_calls, task.reasoning) == ([CALL], "Hm, the weather.")
        assert client.attach(task.id).messages == messages


def test_without_the_key_what_an_app_would_not_take_is_not_sent(kit: lt.Kit) -> None:
    served = kit.settings
    assert served is not None
    with lt.connect(served.base_url, quiet=True) as client:
        client.submit("x" * 990_000, handler="json").result(30)
        with pytest.raises(lt.SubmitError, match=r"without its key .* takes 1,000,000 at most: "):
            client.submit("x" * 1_000_000, handler="json")
        with pytest.raises(lt.SubmitError, match=r"give connect\(…, api_key=…\)"):
            client.map(["x", "y" * 1_000_000], handler="json", reuse=False)


class Cmyk:
    """What PIL does with an image that PNG has no mode for."""

    def save(self, _: object, *, format: str) -> None:
        raise OSError(f"cannot write mode CMYK as {format}")


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        (b"nothing", "expected PNG"),
        ("/no/such.png", "can't be read"),
        ("~nobody-here/cat.png", "can't be read"),
        (Cmyk(), r"cannot write mode CMYK as PNG\. Give its convert\('RGB'\)"),
        (7, "got int"),
    ],
)
def test_what_is_no_image_is_refused(source: object, problem: str) -> None:
    with pytest.raises(lt.SubmitError, match=problem):
        lt.image(source)


def test_an_image_on_the_web_stays_a_link() -> None:
    url = "https://example.com/cat.png"
    assert lt.image(url, detail="low")["image_url"] == {"url": url, "detail": "low"}
