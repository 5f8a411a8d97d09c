"""The official AG-UI client, 1.0 and the one before it, unmodified; needs node and npm."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

import longtask_kit as lt
from tests.front_ends.conftest import RunNode

pytestmark = pytest.mark.gate


def test_a_run_cut_behind_any_event_is_taken_up_exactly_by_both_clients(
    node: RunNode, stack: lt.LocalStack, key: str, scale: Callable[..., int]
) -> None:
    url, most = stack.environment["LONGTASK_BASE_URL"], scale(short=8, full=1000)
    assert node("ag_ui.mjs", str(most), BASE_URL=url, KEY=key).startswith("ok ")


# A page finds the app at its own address, and has asked something: node has neither.
AS_A_PAGE = """
import { HttpAgent as Agent } from '@ag-ui/client';
const { BASE_URL, KEY: key } = process.env, threadId = 'readme', runId = `readme-${Date.now()}`;
const plain = fetch;
globalThis.fetch = (url, ...more) => plain(new URL(url, BASE_URL), ...more);
const initialMessages = [{ id: 'q', role: 'user', content: 'Explain tides' }];
class HttpAgent extends Agent {
  constructor(options) { super({ initialMessages, ...options }); }
  async runAgent(options) {
    await super.runAgent(options);
    console.log(JSON.stringify(this.messages));
  }
}
"""


def test_the_block_in_readme_finds_the_same_run_by_its_id(
    node: RunNode, stack: lt.LocalStack, key: str
) -> None:
    readme = Path(__file__).parents[2] / "README.md"
    [block] = re.findall(r"(?ms)^```js\n(.*?)^```$", readme.read_text(encoding="utf-8"))
    url = stack.environment["LONGTASK_BASE_URL"]
    said = node("-", source=AS_A_PAGE + block, BASE_URL=url, KEY=key)
    first, again = said.splitlines()
    assert first == again
    assert '"role":"assistant"' in first
