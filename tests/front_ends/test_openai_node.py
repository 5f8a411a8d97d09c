"""The official openai package for node, unmodified; needs node and npm."""

from collections.abc import Callable

import pytest

from tests.front_ends.conftest import RunNode

pytestmark = pytest.mark.gate


def test_the_node_sdk_runs_in_background_and_takes_up_what_was_cut(
    node: RunNode, base_url: str, key: str, scale: Callable[..., int]
) -> None:
    assert node("openai.mjs", str(scale(short=32, full=200)), BASE_URL=base_url, KEY=key) == "ok\n"
