"""Stage 3: the factory: any prefix, any number of apps, its own lifespan."""

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import Depends, FastAPI, HTTPException, Request, params
from upstash_redis import Redis

import longtask_kit as lt
from longtask_kit.log.keys import new_task_id
from longtask_kit.server.front_ends.routes import FRONT_ENDS
from longtask_kit.server.handlers import TaskContext
from tests.serving import free_port, serve
from tests.thorough import first_of
from tests.wait import wait_until

HTTP = httpx.Client(timeout=30)


async def shout(context: TaskContext) -> AsyncIterator[str]:
    """A handler of the user's."""
    for word in context.spec.prompt.split():
        yield word.upper() + " "


async def whisper(context: TaskContext) -> AsyncIterator[str]:
    """Another one, under the same name in another app."""
    yield context.spec.prompt.lower()


@contextlib.contextmanager
def served_app(
    settings: lt.Settings,
    *,
    prefix: str = "",
    dependencies: Sequence[params.Depends] = (),
    **options: object,
) -> Iterator[lt.Settings]:
    """Serve a host app with the router under a prefix; yields settings that lead to it."""
    port = free_port()
    own = settings.model_copy(update={"base_url": f"http://127.0.0.1:{port}{prefix}", **options})
    app = FastAPI()
    app.include_router(
        lt.create_router(
            own,
            handlers={"shout": whisper if options.get("model") else shout},
            dependencies=dependencies,
        ),
        prefix=prefix,
    )
    with serve(app, port=port):
        yield own


def test_a_router_works_under_any_prefix_of_somebodys_app(settings: lt.Settings) -> None:
    with (
        served_app(settings, prefix="/llm/v2") as own,
        lt.connect(settings=own, quiet=True) as kit,
    ):
        assert kit.submit("hello there", handler="shout").result(30) == "HELLO THERE "
        assert kit.submit("rivers", model="demo-fast").result(30)


def test_two_apps_with_different_settings_live_in_one_process(settings: lt.Settings) -> None:
    with (
        served_app(settings) as one,
        served_app(settings, model="demo-fast", ttl_s=120) as two,
        lt.connect(settings=one, quiet=True) as kit_one,
        lt.connect(settings=two, quiet=True) as kit_two,
    ):
        task_one = kit_one.submit("Both At Once", handler="shout")
        task_two = kit_two.submit("Both At Once", handler="shout")
        assert task_one.result(30) == "BOTH AT ONCE "
        assert task_two.result(30) == "both at once"


def test_errors_keep_their_shape_in_an_embedding_app(settings: lt.Settings) -> None:
    with served_app(settings, prefix="/llm") as own:
        response = HTTP.post(f"{own.base_url}/api/tasks/start", json={"prompt": 7})
        assert response.status_code == 400
        assert '"prompt"' in response.json()["error"]


@pytest.mark.parametrize(
    ("method", "path", "status_code"),
    [
        ("GET", "/", 404),
        ("GET", "/api/nothing", 404),
        ("POST", "/llm/api/tasks/start", 404),
        ("PUT", "/api/tasks", 405),
        ("GET", "/api/tasks/cancel/x", 404),
        ("DELETE", "/api/qstash/webhook", 405),
        ("GET", "/api/qstash/failure", 405),
    ],
)
def test_what_no_route_matches_is_refused_in_the_same_shape(
    settings: lt.Settings, method: str, path: str, status_code: int
) -> None:
    answer = HTTP.request(method, f"{settings.base_url}{path}")
    assert answer.status_code == status_code
    assert set(answer.json()) == {"error"}
    assert ("Allow" in answer.headers) == (status_code == 405)


def test_a_defect_is_answered_in_the_same_shape_without_its_text(settings: lt.Settings) -> None:
    def limit() -> None:
        raise ZeroDivisionError("canary")

    with serve(lt.create_app(settings, dependencies=[Depends(limit)])) as url:
        answer = HTTP.get(f"{url}/api/tasks")
        assert answer.status_code == 500
        assert "log" in answer.json()["error"]
        assert "canary" not in answer.text


def test_somebodys_app_keeps_its_own_errors(settings: lt.Settings) -> None:
    with served_app(settings, prefix="/llm") as own:
        answer = HTTP.get(f"{own.base_url}/nothing")
        assert (answer.status_code, set(answer.json())) == (404, {"detail"})


def test_the_app_refuses_to_exist_without_signing_keys(settings: lt.Settings) -> None:
    bare = settings.model_copy(update={"qstash_current_signing_key": None})
    with pytest.raises(lt.ConfigError, match="QSTASH_CURRENT_SIGNING_KEY"):
        lt.create_app(bare)


def test_development_mode_must_stay_on_this_machine(settings: lt.Settings) -> None:
    public = settings.model_copy(update={"dev": True, "base_url": "https://app.example.com"})
    with pytest.raises(lt.ConfigError, match="LONGTASK_DEV"):
        lt.create_app(public)


def test_development_mode_runs_a_task_without_the_queue(settings: lt.Settings) -> None:
    keyless = settings.model_copy(
        update={"qstash_current_signing_key": None, "qstash_next_signing_key": None}
    )
    with served_app(keyless, dev=True) as own:
        task_id = new_task_id()
        query = {"taskId": task_id, "prompt": "Explain tides"}
        response = HTTP.get(own.webhook_url, params=query)
        assert response.json() == {"taskId": task_id, "status": "completed"}
        with lt.connect(settings=own, quiet=True) as kit:
            assert kit.attach(task_id).text
        for headers in (
            {"X-Forwarded-For": "127.0.0.1"},  # a tunnel leads here
            {"Forwarded": "for=127.0.0.1"},
            {"Sec-Fetch-Site": "cross-site"},  # an <img> in somebody's page
            {"Sec-Fetch-Site": "same-site"},
            {"Host": "rebound.example"},  # a page whose name was made to lead here
            {"Host": "[::1"},
        ):
            refused = HTTP.get(own.webhook_url, params=query, headers=headers)
            assert refused.status_code == 405, headers
        for headers in ({"Sec-Fetch-Site": "none"}, {"Host": "localhost:8000"}):
            assert HTTP.get(own.webhook_url, params=query, headers=headers).status_code == 200
        # The signed endpoint does not open up with it.
        assert HTTP.post(own.webhook_url, content=b"{}").status_code == 401


def test_an_id_may_run_again_once_its_task_is_deleted(settings: lt.Settings) -> None:
    with served_app(settings, dev=True, model="demo-slow-start") as own:
        task_id = new_task_id()

        def run(prompt: str) -> httpx.Response:
            return HTTP.get(own.webhook_url, params={"taskId": task_id, "prompt": prompt})

        with ThreadPoolExecutor() as pool, lt.connect(settings=own, quiet=True) as kit:
            first = pool.submit(run, "about apples")
            wait_until(lambda: HTTP.get(f"{own.base_url}/api/tasks/{task_id}").is_success)
            wait_until(lambda: kit.attach(task_id).status == "running")
            assert HTTP.delete(f"{own.base_url}/api/tasks/{task_id}").is_success
            assert run("about rivers").json() == {"taskId": task_id, "status": "completed"}
            assert first.result().status_code in (489, 503)
            alone = kit.submit("about rivers", model="demo-fast").result(30)
            assert kit.attach(task_id).text == alone


def test_a_handler_must_be_an_async_generator(settings: lt.Settings) -> None:
    async def not_a_generator(_: TaskContext) -> str:
        return "x"

    with pytest.raises(lt.ConfigError, match="async generator"):
        lt.create_app(settings, handlers={"bad": not_a_generator})  # type: ignore[dict-item]


def test_an_api_key_guards_every_task_call(settings: lt.Settings) -> None:
    with served_app(settings, api_key=settings.qstash_token) as own:
        base = f"{own.base_url}/api/tasks"
        calls = [
            HTTP.post(f"{base}/start", json={"prompt": "x"}),
            HTTP.get(f"{base}/start", params={"taskId": "task_12345678"}),
            HTTP.get(f"{base}/stream", params={"taskId": "task_12345678"}),
            HTTP.post(f"{base}/cancel", json={"taskId": "task_12345678"}),
            HTTP.get(base),
            HTTP.get(f"{base}/task_12345678"),
            HTTP.delete(f"{base}/task_12345678"),
            HTTP.get(base, headers={"Authorization": "Bearer wrong"}),
        ]
        assert [call.status_code for call in calls] == [401] * len(calls)
        key = own.api_key.get_secret_value() if own.api_key else ""
        for header in (key, f"Basic {key}", f"Bearer{key}", f"Bearer {key}x", "Bearer"):
            for path in ("", "/stream?taskId=task_12345678"):
                refused = HTTP.get(f"{base}{path}", headers={"Authorization": header})
                assert refused.status_code == 401, header
        assert HTTP.get(base, headers={"Authorization": f"bearer {key}"}).status_code == 200
        with lt.connect(str(own.base_url), api_key=key, quiet=True) as kit:
            assert kit.submit("hello", handler="shout").result(30) == "HELLO "
        with (
            lt.connect(str(own.base_url), api_key="wrong", quiet=True) as stranger,
            pytest.raises(lt.ConfigError, match="API key"),
        ):
            stranger.submit("hello")


def test_a_limit_of_ones_own_guards_every_task_call_and_no_delivery(settings: lt.Settings) -> None:
    calls: list[str] = []

    async def limit(request: Request) -> None:
        calls.append(request.url.path)
        if len(calls) > 1:
            raise HTTPException(429, "Slow down.", headers={"Retry-After": "10"})

    with (
        served_app(settings, dependencies=[Depends(limit)]) as own,
        lt.connect(str(own.base_url), quiet=True) as kit,
        lt.connect(settings=own, quiet=True) as behind,
    ):
        task_id = kit.submit("hello", handler="shout").id
        refused = HTTP.get(f"{own.base_url}/api/tasks/stream", params={"taskId": task_id})
        assert (refused.status_code, refused.json()) == (429, {"error": "Slow down."})
        assert refused.headers["Retry-After"] == "10"
        with pytest.raises(lt.SubmitError, match="Slow down"):
            kit.submit("hello")
        assert behind.attach(task_id).result(30) == "HELLO ", "the delivery was not limited"
        assert set(calls) == {"/api/tasks/start", "/api/tasks/stream"}


@pytest.mark.parametrize("path", ["/api/tasks/start", "/api/qstash/webhook"])
def test_a_body_without_a_declared_length_is_limited_too(settings: lt.Settings, path: str) -> None:
    def body() -> Iterator[bytes]:
        for _ in range(100):
            yield b"x" * 100_000

    headers = {"Content-Type": "application/json"}
    with contextlib.suppress(httpx.WriteError):  # it need not read on to refuse
        answer = HTTP.post(f"{settings.base_url}{path}", content=body(), headers=headers)
        assert answer.status_code == 413
        assert "bytes" in answer.json()["error"]


PAGE = "https://page.example"
PREFLIGHT = {
    "Origin": PAGE,
    "Access-Control-Request-Method": "GET",
    "Access-Control-Request-Headers": "authorization,last-event-id",
}


@pytest.mark.parametrize("origins", ["https://other.example, https://page.example", "*"])
def test_pages_of_the_origins_that_are_set_may_call(settings: lt.Settings, origins: str) -> None:
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    own = settings.model_copy(update={"cors_origins": origins, "base_url": base})
    with serve(lt.create_app(own), port=port), lt.connect(settings=own, quiet=True) as kit:
        allowed = HTTP.options(f"{base}/api/tasks/stream", headers=PREFLIGHT)
        assert allowed.status_code == 200
        assert allowed.headers["Access-Control-Allow-Origin"] in (PAGE, "*")
        task = kit.submit("rivers", model="demo-fast")
        stream = HTTP.get(
            f"{base}/api/tasks/stream", params={"taskId": task.id}, headers={"Origin": PAGE}
        )
        assert stream.headers["Access-Control-Allow-Origin"] in (PAGE, "*")
        assert '"end"' in stream.text
        if origins != "*":
            stranger = PREFLIGHT | {"Origin": "https://evil.example"}
            refused = HTTP.options(f"{base}/api/tasks/stream", headers=stranger)
            assert "Access-Control-Allow-Origin" not in refused.headers


def test_a_page_that_is_allowed_may_send_and_read_the_headers_of_a_front_end(
    settings: lt.Settings,
) -> None:
    own = settings.model_copy(update={"cors_origins": PAGE})
    asked = PREFLIGHT | {"Access-Control-Request-Headers": "x-stainless-lang,idempotency-key"}
    with serve(lt.create_app(own, front_ends=FRONT_ENDS)) as url:
        allowed = HTTP.options(f"{url}/v1/responses", headers=asked)
        assert allowed.status_code == 200
        assert "x-stainless-lang" in allowed.headers["Access-Control-Allow-Headers"]
        read = HTTP.get(f"{url}/v1/responses/resp_x", headers={"Origin": PAGE})
        assert "x-request-id" in read.headers["Access-Control-Expose-Headers"]


def test_no_page_of_another_origin_may_call_unless_it_is_set(settings: lt.Settings) -> None:
    for answer in (
        HTTP.options(f"{settings.base_url}/api/tasks/start", headers=PREFLIGHT),
        HTTP.get(f"{settings.base_url}/api/tasks", headers={"Origin": PAGE}),
    ):
        assert not [name for name in answer.headers if name.startswith("access-control")]
    # A page may send a form or plain text without asking first: neither starts a task.
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        body = b'{"prompt": "x"}'
        headers = {"Content-Type": kind} if kind else {}
        url = f"{settings.base_url}/api/tasks/start"
        answer = HTTP.post(url, content=body, headers=headers)
        assert answer.status_code == 400
        assert "Content-Type: application/json" in answer.json()["error"], "what `curl -d` needs"


def test_status_calls_answer_for_known_unknown_and_missing_ids(
    settings: lt.Settings, kit: lt.Kit
) -> None:
    base = f"{settings.base_url}/api/tasks"
    task = kit.submit("rivers", model="demo-fast")
    task.result(30)
    for answer in (
        HTTP.get(f"{base}/start", params={"taskId": task.id}),
        HTTP.get(f"{base}/{task.id}"),
    ):
        body = answer.json()
        assert (body["taskId"], body["status"], body["error"]) == (task.id, "completed", None)
        assert body["usage"]["completionTokens"] > 0
    assert HTTP.get(f"{base}/start").status_code == 400
    assert "taskId" in HTTP.get(f"{base}/start").json()["error"]
    for unknown in (new_task_id(), "nonsense", "task_%00"):
        assert HTTP.get(f"{base}/{unknown}").status_code == 404
        assert HTTP.get(f"{base}/stream", params={"taskId": unknown}).status_code == 404


@pytest.mark.anyio
@pytest.mark.parametrize("path", ["/api/tasks/start", "/api/chat", "/api/agui", "/v1/responses"])
async def test_who_leaves_in_the_middle_of_his_body_is_no_defect_of_the_app(
    settings: lt.Settings, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    heard = iter([{"type": "http.request", "body": b"{", "more_body": True}])
    app = lt.create_app(settings.model_copy(update={"api_key": None}), front_ends=FRONT_ENDS)

    async def receive() -> dict[str, Any]:
        return next(heard, {"type": "http.disconnect"})

    async def send(_: MutableMapping[str, Any]) -> None:
        pass

    scope = {"type": "http", "method": "POST", "path": path, "query_string": b""}
    headers = [(b"content-type", b"application/json"), (b"host", b"127.0.0.1")]
    await app(scope | {"headers": headers}, receive, send)  # raises nothing
    assert not caplog.records


def test_tasks_are_listed_newest_first_and_by_status(stack: lt.LocalStack, kit: lt.Kit) -> None:
    url = f"{stack.environment['LONGTASK_BASE_URL']}/api/tasks"
    key = {"Authorization": f"Bearer {stack.environment['LONGTASK_API_KEY']}"}
    first, second = (kit.submit(f"list me {n}", model="demo-fast") for n in range(2))
    first.result(30), second.result(30)
    tasks = HTTP.get(url, params={"limit": 2}, headers=key).json()["tasks"]
    assert [task["taskId"] for task in tasks] == [second.id, first.id]
    by_status = {"status": "failed", "limit": "50"}
    failed = HTTP.get(url, params=by_status, headers=key).json()["tasks"]
    assert all(task["status"] == "failed" for task in failed)
    for wrong in ({"limit": "0"}, {"limit": "5000"}, {"status": "unheard-of"}):
        response = HTTP.get(url, params=wrong, headers=key)
        assert response.status_code == 400, wrong
        assert next(iter(wrong)) in response.json()["error"]


@pytest.mark.parametrize("after", ["99999999999999999999-1", "1-2-3", "²-1", "17", "-", "a-1", ""])
def test_a_place_in_the_changes_that_is_none_is_refused(stack: lt.LocalStack, after: str) -> None:
    url = f"{stack.environment['LONGTASK_BASE_URL']}/api/groups/changes"
    key = {"Authorization": f"Bearer {stack.environment['LONGTASK_API_KEY']}"}
    answer = HTTP.get(url, params={"after": after}, headers=key)
    assert (answer.status_code, "after" in answer.json()["error"]) == (400, True)
    place = HTTP.get(url, headers=key).json()["place"]
    assert HTTP.get(url, params={"after": place}, headers=key).json()["place"] == place


def test_health_says_which_services_answer(settings: lt.Settings) -> None:
    answer = HTTP.get(f"{settings.base_url}/api/health").json()
    assert answer == {"status": "ok", "services": {"redis": True, "queue": True}}
    with served_app(settings, qstash_token=settings.openai_api_key) as own:
        answer = HTTP.get(f"{own.base_url}/api/health").json()
        assert answer == {"status": "degraded", "services": {"redis": True, "queue": False}}


def test_health_is_asked_once_for_all_who_ask_at_once(settings: lt.Settings, redis: Redis) -> None:
    def count_pings() -> int:
        stats = str(redis.execute(["INFO", "commandstats"]))
        return int(stats.partition("cmdstat_ping:calls=")[2].partition(",")[0] or 0)

    with served_app(settings) as own, ThreadPoolExecutor(100) as pool:
        before = count_pings()
        answers = list(pool.map(lambda _: HTTP.get(f"{own.base_url}/api/health"), range(100)))
        assert {answer.json()["status"] for answer in answers} == {"ok"}
        assert count_pings() - before == 1
        head = HTTP.head(f"{own.base_url}/api/health")  # as monitors and load balancers ask
        assert (head.status_code, head.content) == (200, b"")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"budgetCost": 1}, "budgetCost without prices"),
        ({"budgetCost": 1, "budgetTokens": 1, "prices": [1, 2]}, "expected one of them"),
        ({"budgetCost": 1, "prices": [1]}, "options.prices"),
        ({"budgetTokens": 0}, "options.budgetTokens"),
        ({"rpm": "60"}, "options.rpm"),
        ({"parallelism": 1001}, "options.parallelism"),
        ({"samples": None}, "options.samples"),
        ({"budget_tokens": 10}, "no field of ours"),
    ],
)
def test_what_a_group_is_asked_with_is_checked_before_anything_is_queued(
    stack: lt.LocalStack, redis: Redis, options: dict[str, object], told: str
) -> None:
    before = redis.dbsize()
    body = {"rows": [{"prompt": "x"}], "reuse": False, "options": options}
    has_key = {"Authorization": f"Bearer {stack.environment['LONGTASK_API_KEY']}"}
    refused = HTTP.post(f"{stack.settings.base_url}/api/groups", json=body, headers=has_key)
    assert (refused.status_code, told in refused.json()["error"]) == (400, True), refused.text
    assert redis.dbsize() <= before  # what others have left may expire


def test_the_openapi_page_documents_every_call(settings: lt.Settings) -> None:
    schema = HTTP.get(f"{settings.base_url}/openapi.json").json()
    assert set(schema["paths"]) == {
        "/api/tasks",
        "/api/tasks/start",
        "/api/tasks/stream",
        "/api/tasks/cancel",
        "/api/tasks/retry",
        "/api/tasks/try-now",
        "/api/tasks/{task_id}",
        "/api/tasks/{task_id}/input",
        "/api/tasks/{task_id}/next-try",
        "/api/groups",
        "/api/groups/changes",
        "/api/groups/look",
        "/api/groups/texts",
        "/api/groups/retry",
        "/api/groups/cancel",
        "/api/groups/{group_id}",
        "/api/groups/{group_id}/resume",
        "/api/groups/{group_id}/vote",
        "/api/qstash/webhook",
        "/api/qstash/failure",
        "/api/health",
        "/api/chat",
        "/api/chat/{chat_id}/stream",
        "/api/chat/{chat_id}/stop",
        "/api/agui",
        "/api/agui/stop",
        "/v1/responses",
        "/v1/responses/{response_id}",
        "/v1/responses/{response_id}/cancel",
        "/v1/responses/{response_id}/input_items",
        "/v1/chat/completions",
        "/v1/models",
    }
    assert HTTP.get(f"{settings.base_url}/docs").status_code == 200
    names = {p["name"] for p in schema["paths"]["/api/tasks/stream"]["get"]["parameters"]}
    assert {"taskId", "lastEventId"} <= names


def test_what_the_openapi_page_refers_to_is_there(settings: lt.Settings) -> None:
    page = lt.create_app(settings, front_ends=FRONT_ENDS).openapi()
    referred = set(re.findall(r'"\$ref": "([^"]+)"', json.dumps(page)))
    assert referred == {f"#/components/schemas/{name}" for name in page["components"]["schemas"]}


def test_readme_lists_every_call_of_the_http_api(settings: lt.Settings) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    calls = {
        re.sub(r"{\w+}", "{id}", p)
        for p in lt.create_app(settings, front_ends=FRONT_ENDS).openapi()["paths"]
    }
    listed = set(re.findall(r"/api/[\w/{}-]+", readme))
    assert {call for call in calls if call.startswith("/api/")} - listed == set()


def test_the_openapi_page_tells_every_refusal_and_none_that_is_not(
    settings: lt.Settings,
) -> None:
    keyed = settings.model_copy(update={"api_key": settings.qstash_token})
    schema = lt.create_app(keyed, front_ends=FRONT_ENDS).openapi()
    told = {
        f"{method.upper()} {path}": set(call["responses"]) - {"200", "default"}
        for path, calls in schema["paths"].items()
        for method, call in calls.items()
    }
    assert told == {
        "GET /api/tasks": {"400", "401"},
        "POST /api/tasks/start": {"400", "401", "413", "502"},
        "GET /api/tasks/start": {"400", "401", "404"},
        "GET /api/tasks/stream": {"400", "401", "404"},
        "POST /api/tasks/cancel": {"400", "401", "404", "413"},
        "POST /api/tasks/retry": {"400", "401", "404", "413", "502"},
        "POST /api/tasks/try-now": {"400", "401", "404", "413"},
        "GET /api/tasks/{task_id}": {"400", "401", "404"},
        "DELETE /api/tasks/{task_id}": {"400", "401", "404"},
        "GET /api/tasks/{task_id}/input": {"400", "401", "404"},
        "GET /api/tasks/{task_id}/next-try": {"400", "401", "404"},
        "POST /api/groups": {"400", "401", "404", "413", "502"},
        "GET /api/groups": {"400", "401"},
        "GET /api/groups/changes": {"400", "401"},
        "GET /api/groups/{group_id}": {"400", "401", "404"},
        "POST /api/groups/{group_id}/resume": {"400", "401", "404", "413", "502"},
        "POST /api/groups/{group_id}/vote": {"400", "401", "404", "413"},
        "POST /api/groups/look": {"400", "401", "413"},
        "POST /api/groups/texts": {"400", "401", "413"},
        "POST /api/groups/retry": {"400", "401", "413", "502"},
        "POST /api/groups/cancel": {"400", "401", "413"},
        "POST /api/qstash/webhook": {"401", "489", "500", "503"},
        "POST /api/qstash/failure": {"401", "489", "500", "503"},
        "GET /api/qstash/webhook": {"400", "405"},
        "GET /api/health": set(),
        "POST /api/chat": {"400", "401", "409", "413", "502"},
        "GET /api/chat/{chat_id}/stream": {"204", "400", "401", "404"},
        "POST /api/chat/{chat_id}/stop": {"400", "401", "404"},
        "POST /api/agui": {"400", "401", "409", "413", "502"},
        "POST /api/agui/stop": {"400", "401", "404", "413"},
        "POST /v1/responses": {"400", "401", "404", "409", "413", "502"},
        "GET /v1/responses/{response_id}": {"400", "401", "404"},
        "DELETE /v1/responses/{response_id}": {"400", "401", "404"},
        "POST /v1/responses/{response_id}/cancel": {"400", "401", "404"},
        "GET /v1/responses/{response_id}/input_items": {"400", "401", "404"},
        "POST /v1/chat/completions": {"400", "401", "404", "409", "413", "502"},
        "GET /v1/models": {"400", "401"},
    }
    refused = schema["paths"]["/api/tasks"]["get"]["responses"]["400"]
    assert refused["content"]["application/json"]["schema"]["$ref"].endswith("/TaskErrorAnswer")
    assert "HTTPValidationError" not in schema["components"]["schemas"]
    refused = schema["paths"]["/v1/responses"]["post"]["responses"]["400"]
    assert refused["content"]["application/json"]["schema"]["$ref"].endswith("/OpenAiErrorAnswer")
    streamed = schema["paths"]["/api/tasks/stream"]["get"]["responses"]["200"]["content"]
    assert list(streamed) == ["text/event-stream"]
    assert streamed["text/event-stream"]["itemSchema"]["required"] == ["data"]
    no_stream = schema["paths"]["/api/tasks/stream"]["get"]["responses"]["404"]["content"]
    assert list(no_stream) == ["application/json"]
    assert "HTTPBearer" in schema["components"]["securitySchemes"], "/docs can send the key"
    assert "securitySchemes" not in lt.create_app(settings).openapi()["components"]


@pytest.mark.parametrize("prefix", first_of(["", "/llm"], rest_in_gate=True))
def test_an_app_that_is_stopped_gives_its_attempt_back(settings: lt.Settings, prefix: str) -> None:
    port = free_port()
    own = settings.model_copy(update={"base_url": f"http://127.0.0.1:{port}{prefix}"})

    def make_app() -> FastAPI:
        if not prefix:
            return lt.create_app(own)
        host = FastAPI()
        host.mount(prefix, lt.create_app(own))  # no lifespan runs for what is mounted
        return host

    with lt.connect(settings=own, quiet=True) as kit:
        with serve(make_app(), port=port):
            task = kit.submit("Tell a long story", model="demo@40")
            task.events()
            wait_until(lambda: task._feed.transcript.tokens > 3)
        wait_until(lambda: task.status == "retrying")
        assert task.error == "The server was shut down."
        with serve(make_app(), port=port):  # the redelivery finds the next one
            text = task.result(30)
            assert task.attempt == 2
            assert text == kit.submit("Tell a long story", model="demo-fast").result(30)


_LOOP_A_REQUEST = """
import asyncio, httpx
import longtask_kit as lt

transport = httpx.ASGITransport(lt.create_app())

async def ask():
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        print((await client.post("/api/tasks/start", json={"prompt": "x"})).status_code)

asyncio.run(ask())
asyncio.run(ask())
"""


def test_a_host_with_a_loop_for_each_request_hears_no_complaint(stack: lt.LocalStack) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _LOOP_A_REQUEST],
        env=os.environ | stack.environment | {"LONGTASK_API_KEY": ""},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == ("200\n200\n", "")
