"""The official JavaScript SDK, unmodified, against the queue; needs node and npm."""

import dataclasses
import json
import shutil
import subprocess
from pathlib import Path

import pytest
import redis
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from longtask_kit.local.qstash.plan import PLANS
from tests.contract.qstash.destination import CURRENT_KEY, NEXT_KEY, TOKEN, make_app
from tests.serving import free_port, serve

pytestmark = pytest.mark.gate  # the Python one shows the same without node

PACKAGE = "@upstash/qstash@2"
DRIVER = Path(__file__).with_name("drive_js_sdk.mjs")
DEV_TOKEN = "eyJVc2VySUQiOiJkZWZhdWx0VXNlciIsIlBhc3N3b3JkIjoiZGVmYXVsdFBhc3N3b3JkIn0="
DEV_KEYS = {
    "current_signing_key": "sig_7kYjw48mhY7kAjqNGcy6cr29RJ6r",
    "next_signing_key": "sig_5ZB6DVzB1wjE8S6rZ7eenA8Pdnhs",
}


@pytest.fixture(scope="session")
def node_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        pytest.skip("node and npm are not installed: the JavaScript SDK was not driven")
    folder = tmp_path_factory.mktemp("npm")
    (folder / "package.json").write_text("{}")
    command = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", PACKAGE]
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=90, check=False
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"npm could not install {PACKAGE} in 90 s: the JavaScript SDK was not driven")
    if done.returncode != 0:
        pytest.skip(f"npm could not install {PACKAGE}: {done.stderr.strip()[-200:]}")
    return folder


def run_node(folder: Path, *arguments: str, **environment: str) -> str:
    done = subprocess.run(
        ["node", *arguments],  # noqa: S607 - found above
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=100,
        env={"PATH": str(Path(shutil.which("node") or "").parent), **environment},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_call_of_the_javascript_sdk(
    node_folder: Path, qstash_valkey: str, qstash_flush: redis.Redis
) -> None:
    qstash_flush.flushdb()
    seen: list[dict[str, str]] = []
    with serve(_receiver(seen)) as target, serve(make_app(qstash_valkey)) as url:
        said = run_node(
            node_folder, str(DRIVER), str(node_folder), url, TOKEN, target, CURRENT_KEY, NEXT_KEY
        )
    assert said.count("ok ") == 10


def test_the_javascript_sdk_in_development_mode_adopts_the_queue(
    node_folder: Path, qstash_valkey: str, qstash_flush: redis.Redis
) -> None:
    qstash_flush.flushdb()
    port = free_port()
    script = """
        import { Client } from "@upstash/qstash";
        const client = new Client({ devMode: true });
        const sent = await client.publish({ url: process.env.TARGET, delay: "1h" });
        console.log(JSON.stringify(sent));
    """
    (node_folder / "dev.mjs").write_text(script)
    app = make_app(qstash_valkey, token=DEV_TOKEN, **DEV_KEYS)
    with serve(app, port=port):
        said = run_node(
            node_folder, "dev.mjs", TARGET="http://127.0.0.1:9/", QSTASH_DEV_PORT=str(port)
        )
        sent = json.loads(said.strip().splitlines()[-1])
        assert qstash_flush.zscore("{qstash}:pending", sent["messageId"]) is not None


def test_the_javascript_sdk_tells_the_limits_of_a_plan_apart(
    node_folder: Path, qstash_valkey: str, qstash_flush: redis.Redis
) -> None:
    qstash_flush.flushdb()
    plan = dataclasses.replace(PLANS["free"], messages_per_day=1, queues=0, requests_per_s=1)
    (node_folder / "plan.mjs").write_text("""
        import { Client } from "@upstash/qstash";
        const client = new Client({ baseUrl: process.env.QUEUE, token: process.env.TOKEN,
                                    retry: false });
        const url = "http://127.0.0.1:9/";
        const failure = async (promise) => promise.then(() => null, (error) => error);
        await client.publish({ url, delay: "1h" });
        const queue = client.queue({ queueName: "q" });
        const errors = [
          await failure(client.publish({ url })),
          await failure(queue.enqueue({ url })),
          await failure(Promise.all([1, 2, 3].map(() => client.schedules.list()))),
        ];
        console.log(JSON.stringify(errors.map(
          (error) => [error.constructor.name, error.status, error.message])));
    """)
    with serve(make_app(qstash_valkey, plan=plan)) as url:
        said = run_node(node_folder, "plan.mjs", QUEUE=url, TOKEN=TOKEN)
    day, queues, burst = json.loads(said.strip().splitlines()[-1])
    assert day[:2] == ["QstashDailyRatelimitError", 429]
    assert '"limit":"1"' in day[2]
    assert queues[:2] == ["QstashError", 412]
    assert "too many queues" in queues[2]
    assert burst[:2] == ["QstashRatelimitError", 429]


def _receiver(seen: list[dict[str, str]]) -> Starlette:
    """Return an app that remembers what it got, and tells it; /fails is not found."""

    async def tell(_: Request) -> Response:
        return JSONResponse(seen)

    async def answer(request: Request) -> Response:
        scope = request.scope
        query = scope["query_string"].decode()
        origin = f"http://{request.headers['host']}"
        url = origin + scope["raw_path"].decode() + (f"?{query}" if query else "")
        body = (await request.body()).decode()
        # The root is published without its slash, and a request can't show that.
        if scope["raw_path"] != b"/":
            signature = request.headers["upstash-signature"]
            seen.append({"url": url, "body": body, "signature": signature})
        if request.url.path == "/fails":
            return PlainTextResponse("Not Found", 404)
        return PlainTextResponse("ok")

    return Starlette(
        routes=[
            Route("/seen", tell, methods=["GET"]),
            Route("/{path:path}", answer, methods=["GET", "POST"]),
        ]
    )
