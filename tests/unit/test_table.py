"""A table from which ids can be copied, however narrow the terminal."""

import pytest
from rich.text import Text

from longtask_kit.cli.table import lay_out

SHORT, LONG = "task_" + "a" * 22, "resp_" + "b" * 39
ROWS = [
    ("task", "status", "age", "prompt"),
    (SHORT, "completed", "3 s", "Explain tides " * 9),
    (LONG, "stopped at max_tokens (100)", "3 s", "Explain sand"),
]


def show(width: int | None, *caps: int | None) -> list[str]:
    rows = [[Text(cell) for cell in row] for row in ROWS]
    return [line.plain for line in lay_out(rows, width=width, caps=caps)]


def test_a_long_id_takes_no_room_from_the_others() -> None:
    lines = show(80, 28, 11)
    assert lines[1].startswith(f"{SHORT}   completed    3 s  Explain tides Explain")
    assert lines[1].endswith("…")
    assert lines[2:] == [
        LONG,
        " " * 30 + "stopped at max_tokens (100)",
        " " * 43 + "3 s  Explain sand",
    ]
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("width", [1, 30, 60, 80, 120, 200, None])
@pytest.mark.parametrize("caps", [(), (28, 11)])
def test_no_id_is_broken_at_any_width(width: int | None, caps: tuple[int, ...]) -> None:
    lines = show(width, *caps)
    for whole in (SHORT, LONG, "stopped at max_tokens (100)"):
        assert sum(whole in line for line in lines) == 1
    assert sum("Explain sand" in line for line in lines) == 1


def test_what_does_not_fit_beside_the_others_stands_below_them() -> None:
    assert show(60)[-2:] == [LONG, "    stopped at max_tokens (100)  3 s  Explain sand"]
    assert len(show(None)) == len(ROWS)
