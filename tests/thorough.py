"""Parameters of which `pytest` runs the first, which shows the guarantee, and `--all` every one."""

from collections.abc import Iterable
from typing import Any

import pytest


def first_of(values: Iterable[Any]) -> list[Any]:
    """Return the values with all but the first marked as thorough."""
    first, *rest = values
    return [first, *(pytest.param(value, marks=pytest.mark.thorough) for value in rest)]
