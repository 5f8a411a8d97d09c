"""What a schema is sent as, and how an answer is read by it."""

from __future__ import annotations

from collections.abc import Callable  # noqa: TC003 - pydantic reads it
from enum import Enum
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field

import longtask_kit as lt
from longtask_kit.submit.schema import parse_answer, to_response_format


class Colour(Enum):
    RED = "r"


class Dot(BaseModel):
    kind: Literal["dot"]
    colour: Colour = Field(Colour.RED, description="of its ink")


class Line(BaseModel):
    kind: Literal["line"]


class Drawing(BaseModel):
    part: Annotated[Dot | Line, Field(discriminator="kind")]


class Tree(BaseModel):
    name: str
    children: list[Tree] = []


class Called(BaseModel):
    back: Callable[[], None]


def _describe(model: type[BaseModel]) -> dict[str, Any]:
    schema: dict[str, Any] = to_response_format(model)["json_schema"]["schema"]
    return schema


def test_a_recursive_model_is_an_object_not_a_reference() -> None:
    schema = _describe(Tree)
    assert schema["type"] == "object"
    assert "$ref" not in schema
    assert schema["properties"]["children"]["items"] == {"$ref": "#/$defs/Tree"}
    assert schema["$defs"]["Tree"]["additionalProperties"] is False


def test_nothing_stands_beside_a_reference() -> None:
    colour = _describe(Dot)["properties"]["colour"]
    assert colour == {"description": "of its ink", "anyOf": [{"$ref": "#/$defs/Colour"}]}


def test_a_discriminated_union_is_one_that_strict_mode_knows() -> None:
    part = _describe(Drawing)["properties"]["part"]
    assert part["anyOf"] == [{"$ref": "#/$defs/Dot"}, {"$ref": "#/$defs/Line"}]
    assert part.keys() == {"anyOf", "title"}


def test_a_model_that_no_schema_describes_is_refused() -> None:
    with pytest.raises(lt.SubmitError, match='"schema" Called can\'t be described as JSON'):
        to_response_format(Called)


@pytest.mark.parametrize(
    "schema", [{"enum": ["yes", "no"]}, {"properties": {"a": {}}}, {"oneOf": [{"type": "null"}]}]
)
def test_a_json_schema_need_not_name_a_type(schema: dict[str, Any]) -> None:
    assert to_response_format(schema)["json_schema"]["schema"] == schema


@pytest.mark.parametrize(
    ("text", "schema", "problem"),
    [
        ("[" * 100_000, {"type": "array"}, "nested too deep"),
        ("{}", {"$ref": "#/$defs/nowhere"}, "the schema itself is wrong"),
        ("{}", {"$ref": "#"}, "has no end"),
    ],
)
def test_an_answer_that_cannot_be_judged_is_no_answer(
    text: str, schema: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ValueError, match=problem):
        parse_answer(text, schema)
