"""The pure half: RESP2 and JSON, any reply and any argument."""

import base64
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longtask_kit.local.redis.resp import (
    BrokenReplyError,
    Failure,
    Reply,
    ReplyParser,
    Status,
    pack,
)
from longtask_kit.local.redis.wire import (
    encode_message,
    encode_monitored,
    encode_reply,
    parse_command,
    parse_pipeline,
    to_base64,
    to_utf8,
)

ANY = settings(deadline=None)  # the machine may be busy
LINE = st.binary(max_size=20).filter(lambda line: b"\r" not in line and b"\n" not in line)
LEAF = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.binary(max_size=40),
    LINE.map(Status),
    LINE.map(lambda line: Failure(b"ERR " + line)),
)
REPLY: st.SearchStrategy[Reply] = st.recursive(LEAF, lambda items: st.lists(items, max_size=5))
VALUE: st.SearchStrategy[Reply] = st.recursive(
    st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1), st.text().map(str.encode)),
    lambda items: st.lists(items, max_size=5),
)


def to_resp(reply: Reply) -> bytes:
    """Return what Redis would send."""
    match reply:
        case Status():
            return b"+%b\r\n" % reply
        case Failure():
            return b"-%b\r\n" % reply
        case bytes():
            return b"$%d\r\n%b\r\n" % (len(reply), reply)
        case int():
            return b":%d\r\n" % reply
        case list():
            return b"*%d\r\n%b" % (len(reply), b"".join(map(to_resp, reply)))
        case None:
            return b"$-1\r\n"


def kinds(reply: Reply) -> object:
    """Return the types of a tree."""
    return [*map(kinds, reply)] if isinstance(reply, list) else type(reply)


@ANY
@given(st.lists(REPLY, min_size=1, max_size=4), st.lists(st.integers(1, 60), max_size=40))
def test_any_replies_are_read_whatever_pieces_they_come_in(
    replies: list[Reply], sizes: list[int]
) -> None:
    data = b"".join(map(to_resp, replies))
    parser, got = ReplyParser(), []
    for size in sizes:
        got += parser.feed(data[:size])
        data = data[size:]
    got += parser.feed(data)
    assert got == replies
    assert [*map(kinds, got)] == [*map(kinds, replies)]
    assert parser.is_between_replies


@pytest.mark.parametrize("data", [b"HTTP/1.1 400\r\n", b":x\r\n", b"$y\r\n", b"\r\n"])
def test_what_is_no_resp_is_never_taken_for_a_reply(data: bytes) -> None:
    with pytest.raises(BrokenReplyError):
        ReplyParser().feed(data)


def from_base64(value: object) -> object:
    if isinstance(value, str):
        return base64.b64decode(value, validate=True)
    return [*map(from_base64, value)] if isinstance(value, list) else value


def from_utf8(value: object) -> object:
    if isinstance(value, str):
        return value.encode()
    return [*map(from_utf8, value)] if isinstance(value, list) else value


@ANY
@given(VALUE)
def test_any_reply_is_itself_again_in_both_encodings(reply: Reply) -> None:
    assert from_base64(json.loads(encode_reply(reply, to_base64))["result"]) == reply
    assert from_utf8(json.loads(encode_reply(reply, to_utf8))["result"]) == reply


@ANY
@given(REPLY)
def test_every_reply_of_any_kind_is_one_key_of_valid_json(reply: Reply) -> None:
    for encode in (to_base64, to_utf8):
        (name,) = json.loads(encode_reply(reply, encode))
        assert name == ("error" if isinstance(reply, Failure) else "result")


def test_only_the_status_ok_is_raw_and_only_at_the_top() -> None:
    assert encode_reply(Status(b"OK"), to_base64) == b'{"result":"OK"}'
    assert encode_reply(b"OK", to_base64) == b'{"result":"T0s="}'
    assert encode_reply(Status(b"PONG"), to_base64) == b'{"result":"UE9ORw=="}'
    nested: Reply = [Status(b"OK"), [Status(b"OK"), Failure(b"ERR x")]]
    assert encode_reply(nested, to_base64) == b'{"result":["T0s=",["T0s=","RVJSIHg="]]}'


@ANY
@given(
    st.lists(
        st.one_of(st.text(), st.integers(), st.booleans(), st.none(), st.floats(allow_nan=False)),
        min_size=1,
    )
)
def test_an_argument_is_the_text_or_the_literal_it_was_sent_as(arguments: list[object]) -> None:
    finite = [a for a in arguments if a not in (float("inf"), float("-inf"))] or [0]
    expected = [
        a.encode("utf-8", "replace") if isinstance(a, str) else json.dumps(a).encode()
        for a in finite
    ]
    assert parse_command(json.dumps(finite).encode()) == expected
    assert parse_pipeline(json.dumps([finite, finite]).encode()) == [expected] * 2


@ANY
@given(st.lists(st.lists(st.binary(), min_size=1), min_size=1))
def test_packed_commands_are_arrays_of_bulks(commands: list[list[bytes]]) -> None:
    assert ReplyParser().feed(pack(commands)) == commands


def test_half_a_surrogate_pair_is_a_replacement_character() -> None:
    assert parse_command(b'["\\ud83c", "a\\udf0ab"]') == ["\ufffd".encode(), "a\ufffdb".encode()]


@pytest.mark.parametrize(
    ("message", "frame"),
    [
        ([b"subscribe", b"c", 1], b"data: subscribe,c,1\n\n"),
        ([b"message", b"a,b", b""], b"data: message,a,b,\n\n"),
        ([b"pmessage", b"c*", b"c1", b"x\ny\n"], b"data: pmessage,c*,c1,x\ndata: y\ndata: \n\n"),
    ],
)
def test_a_message_is_a_frame_of_lines_that_end_in_lf(message: Reply, frame: bytes) -> None:
    assert encode_message(message) == frame


@pytest.mark.parametrize(
    ("line", "frame"),
    [
        (Status(b"OK"), b'data: "OK"\n\n'),
        (
            Status(b'1721284005.242090 [0 unix:/tmp/s] "GET" "k [x] y"'),
            b'data: 1721284005.242090 [0 0.0.0.0:0] "GET" "k [x] y"\n\n',
        ),
        (
            Status(b'1721284005.242090 [3 lua] "GET" "k"'),
            b'data: 1721284005.242090 [3 0.0.0.0:0] "GET" "k"\n\n',
        ),
    ],
)
def test_a_monitored_command_hides_where_it_came_from(line: Reply, frame: bytes) -> None:
    assert encode_monitored(line) == frame
