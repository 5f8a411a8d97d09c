"""Parameters of which `pytest` runs the first, which shows the guarantee, and others every one."""

from collections.abc import Iterable
from typing import Any

import pytest


def first_of(values: Iterable[Any], *, rest_in_gate: bool = False) -> list[Any]:
    """Return the values with all but the first marked: for `.ci/run`, or else as thorough."""
    first, *rest = values
    mark = pytest.mark.gate if rest_in_gate else pytest.mark.thorough
    return [first, *(pytest.param(value, marks=mark) for value in rest)]
