"""What a group is mapped with, in parts that a request holds each."""

import pytest

from longtask_kit.submit.asked import Asked, Place, replace_rows, split
from longtask_kit.submit.spec import TaskSpec

PLACE = Place(model="m")


@pytest.mark.parametrize(
    ("chars", "expected"),
    [
        ([10], [1]),
        ([10] * 4001, [2000, 2000, 1]),
        ([400_000] * 5, [2, 2, 1]),
        ([2_000_000, 10, 10], [1, 2]),  # too large for any: the app says so
    ],
)
@pytest.mark.parametrize("group_id", ["", "group_12345678"])
def test_each_part_is_small_and_together_they_are_all_rows(
    chars: list[int], expected: list[int], group_id: str
) -> None:
    specs = [TaskSpec(prompt="x" * count) for count in chars]
    samples = list(range(len(specs)))
    asked = Asked(specs=specs, samples=samples, place=PLACE, group_id=group_id, begin=3)
    rows: list[str | None] = [None] * (len(specs) + 3)
    for part, count in zip(split(asked), expected, strict=True):
        assert part.samples is not None
        assert len(part.specs) == len(part.samples)
        known = [str(s) for s, spec in zip(part.samples, part.specs, strict=True) if spec]
        assert len(known) == count
        if not group_id and part.begin == asked.begin:
            assert len(part.specs) == len(specs), "the first makes the group with all its rows"
        rows = replace_rows(rows, known, begin=part.begin)
    assert rows[3:] == [str(sample) for sample in samples]
