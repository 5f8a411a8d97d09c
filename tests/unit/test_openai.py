"""The built-in handler."""

import subprocess
import sys

_FIRST_ATTEMPT = """
import asyncio, sys, threading
import longtask_kit as lt
import longtask_kit.server.app
from longtask_kit.server.handlers import TaskContext
from longtask_kit.server.openai import OpenAIHandler
from longtask_kit.submit.spec import TaskSpec

beside, on_the_loop = set(), set()

class Recorder:
    def find_spec(name, path, target=None):
        if name.partition(".")[0] == "openai":
            is_main = threading.current_thread() is threading.main_thread()
            (on_the_loop if is_main else beside).add(name)

async def main():
    nobody = "http://127.0.0.1:9/v1"
    settings = lt.Settings(_env_file=None, openai_api_key="k", openai_base_url=nobody)
    handler = OpenAIHandler(settings)
    spec = TaskSpec(prompt="x", model="x")
    try:
        async for _ in handler(TaskContext(task_id="task_12345678", attempt=1, spec=spec)):
            pass
    except lt.RetryableError:
        print(len(beside) > 100, sorted(on_the_loop))
    await handler.aclose()

sys.meta_path.insert(0, Recorder)
asyncio.run(main())
"""


def test_the_first_attempt_loads_the_client_beside_the_event_loop() -> None:
    command = [sys.executable, "-c", _FIRST_ATTEMPT]
    seen = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert seen.strip() == "True []"
