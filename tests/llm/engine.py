"""The real model's engine alone, as the model service starts it, to be asked what it does."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx

from longtask_kit.local.model.installed import InstalledModel
from longtask_kit.local.model.native_server import OPTIONS_VARIABLE, STEP_TOKENS

_KEY = "engine-key-for-tests"
_START = "from longtask_kit.local.model import native_server as s; s.STEP_TOKENS = {}; s.main()"


@dataclass(frozen=True, slots=True)
class Engine:
    """A running one."""

    http: httpx.Client

    def ask(self, path: str, **body: Any) -> dict[str, Any]:  # noqa: ANN401
        """Return its answer."""
        answer = self.http.post(path, json=body).raise_for_status()
        told: dict[str, Any] = answer.json()
        return told

    def read_prompt(self, prompt: str) -> list[int]:
        """Return the tokens of a question, in the form that the model was taught."""
        asked = [{"role": "user", "content": prompt}]
        templated = self.ask("/apply-template", messages=asked)["prompt"]
        ids: list[int] = self.ask(
            "/tokenize", content=templated, add_special=True, parse_special=True
        )["tokens"]
        return ids

    def generate(self, ids: list[int], count: int, **options: Any) -> dict[str, Any]:  # noqa: ANN401
        """Return what comes behind tokens, with its own."""
        body = {"n_predict": count, "temperature": 0, "return_tokens": True}
        return self.ask("/completion", prompt=ids, **body | options)

    def find_gap(self, ids: list[int]) -> float:
        """Return how much likelier the best next token is than the second, as logarithms."""
        [told] = self.generate(ids, 1, n_probs=2)["completion_probabilities"]
        first, second = told["top_logprobs"]
        return float(first["logprob"] - second["logprob"])


@contextlib.contextmanager
def run_engine(model: InstalledModel, *, step_tokens: int = STEP_TOKENS) -> Iterator[Engine]:
    """Start it, and end it."""
    options = {"name": model.name, "path": str(model.path), "sha256": model.sha256, "key": _KEY}
    with subprocess.Popen(
        [sys.executable, "-c", _START.format(step_tokens)],
        stdin=subprocess.PIPE,  # closed, it ends
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | {OPTIONS_VARIABLE: json.dumps(options | {"threads": 1})},
    ) as process:
        assert process.stdout is not None
        url = json.loads(process.stdout.readline())["url"]
        headers = {"Authorization": f"Bearer {_KEY}"}
        with httpx.Client(base_url=url, headers=headers, timeout=120, trust_env=False) as http:
            yield Engine(http)
