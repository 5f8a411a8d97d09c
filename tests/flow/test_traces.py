"""Spans, as OpenTelemetry's own SDK hears them: one trace from the submit to the model."""

import json
import os
from collections import Counter

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import longtask_kit as lt
from longtask_kit.traces import describe_messages
from tests.wait import wait_until


@pytest.fixture(scope="module")
def exporter() -> InMemorySpanExporter:
    """Hear all spans of this process, as long as it lives: a provider is set once."""
    heard, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(heard))
    trace.set_tracer_provider(provider)
    return heard


@pytest.fixture
def kit(kit: lt.Kit, exporter: InMemorySpanExporter) -> lt.Kit:
    kit.serve()
    exporter.clear()
    return kit


def hear(exporter: InMemorySpanExporter, *, attempts: int = 1) -> list[ReadableSpan]:
    """Return the spans in the order in which they began, once so many attempts have ended."""

    def spans() -> list[ReadableSpan]:
        return sorted(exporter.get_finished_spans(), key=lambda span: span.start_time or 0)

    wait_until(lambda: [span.name for span in spans()].count("attempt") == attempts)
    return spans()


def test_a_task_is_one_trace_from_its_submit_to_its_model(
    kit: lt.Kit, exporter: InMemorySpanExporter
) -> None:
    with trace.get_tracer("mine").start_as_current_span("my request"):
        task = kit.submit("Explain SECRETIVE tides", model="demo-fast", max_tokens=20)
    task.result(30)
    spans = hear(exporter)
    assert {span.context.trace_id for span in spans} == {spans[0].context.trace_id}
    named = {span.name: span for span in spans}
    for parent, child in [
        ("my request", "submit"),
        ("submit", "queue"),
        ("queue", "attempt"),
        ("attempt", "chat demo-fast"),
    ]:
        above = named[child].parent
        assert above is not None
        assert above.span_id == named[parent].context.span_id, child
    assert dict(named["attempt"].attributes or {}) | {"longtask.task_id": task.id} == {
        "messaging.system": "qstash",
        "messaging.operation.type": "process",
        "messaging.message.id": (named["attempt"].attributes or {})["messaging.message.id"],
        "longtask.task_id": task.id,
        "longtask.attempt": 1,
        "longtask.status": "completed",
    }
    assert dict(named["chat demo-fast"].attributes or {}) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "demo-fast",
        "gen_ai.request.max_tokens": 20,
        "gen_ai.request.temperature": 0.7,
        "gen_ai.response.finish_reasons": ("length",),
        "gen_ai.usage.input_tokens": task.usage.prompt_tokens if task.usage else 0,
        "gen_ai.usage.output_tokens": 20,
        "server.address": "127.0.0.1",
    }
    assert "SECRETIVE" not in "".join(span.to_json() for span in spans)


def test_each_attempt_is_a_span_and_a_failed_one_says_why(
    kit: lt.Kit, exporter: InMemorySpanExporter
) -> None:
    kit.submit("x", model="demo-429-then-ok").result(30)
    spans = [span for span in hear(exporter, attempts=2) if span.name == "attempt"]
    told = [dict(span.attributes or {}) for span in spans]
    assert [(one["longtask.attempt"], one["longtask.status"]) for one in told] == [
        (1, "retrying"),
        (2, "completed"),
    ]
    assert [one.get("error.type") for one in told] == ["rate_limit_exceeded", None]
    assert [span.status.is_ok for span in spans] == [False, True]


def test_what_is_asked_is_told_only_if_that_is_asked_for(
    kit: lt.Kit, exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
    assert name not in os.environ
    monkeypatch.setenv(name, "true")
    kit.submit("Explain ‘tides’", model="demo-fast", system="Be brief.").result(30)
    [call] = [span for span in hear(exporter) if span.name == "chat demo-fast"]
    assert json.loads(str((call.attributes or {})["gen_ai.input.messages"])) == [
        {"role": "system", "parts": [{"type": "text", "content": "Be brief."}]},
        {"role": "user", "parts": [{"type": "text", "content": "Explain ‘tides’"}]},
    ]


def test_what_is_asked_has_the_conventions_shape() -> None:
    picture = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "See"}, picture]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
    ]
    assert [message["parts"] for message in describe_messages({"messages": messages})] == [
        [{"type": "text", "content": "See"}, picture],
        [{"type": "tool_call", "id": "c1", "name": "look", "arguments": "{}"}],
        [{"type": "tool_call_response", "id": "c1", "response": "sunny"}],
    ]


def test_rows_and_a_reused_task_are_traced_from_their_submit_too(
    kit: lt.Kit, exporter: InMemorySpanExporter
) -> None:
    kit.map(["row a", "row b"], model="demo-fast", max_tokens=2).results(30)
    kit.submit("row c", model="demo-fast", max_tokens=2, reuse=True).result(30)
    spans = hear(exporter, attempts=3)
    submits = [span for span in spans if span.name == "submit"]
    told = [dict(span.attributes or {}) for span in submits]
    assert [one.get("messaging.batch.message_count") for one in told] == [2, None]
    assert "longtask.task_id" in told[1]
    traced = [span.context.trace_id for span in spans if span.name == "attempt"]
    assert Counter(traced) == {submits[0].context.trace_id: 2, submits[1].context.trace_id: 1}
