"""Through `@upstash/redis` from npm, unmodified, in a node process for each test."""

import pytest

from tests.contract.redis_rest.conftest import Run

pytestmark = pytest.mark.gate  # the Python one shows the same without node


def test_commands_of_one_tick_are_two_pipelines_of_writes_and_reads(run: Run) -> None:
    script = """
    const writes = [redis.set(`${key}:a`, 1), redis.incr(`${key}:n`), redis.incr(`${key}:n`)];
    const answers = await Promise.all(writes);
    const reads = await Promise.all([redis.get(`${key}:a`), redis.get(`${key}:n`)]);
    done({ answers, reads, sent });
    """
    assert run(script) == {
        "answers": ["OK", 1, 2],
        "reads": [1, 2],
        "sent": ["/pipeline", "/pipeline"],
    }


def test_values_of_every_kind_come_back_as_they_went(run: Run) -> None:
    script = """
    const texts = ["长江 🌊", "OK", "", "line\\nline", "1e400"];
    const values = [...texts, 7, 1.5, true, null, { a: [1, null] }];
    const back = [];
    for (const [index, value] of values.entries()) {
      await redis.set(`${key}:${index}`, value);
      back.push(await redis.get(`${key}:${index}`));
    }
    back.push(await redis.get(`${key}:none`));
    back.push(await redis.mget(`${key}:1`, `${key}:none`));
    done(back);
    """
    texts = ["长江 🌊", "OK", "", "line\nline", "1e400"]
    others = [7, 1.5, True, None, {"a": [1, None]}]
    assert run(script) == [*texts, *others, None, ["OK", None]]


def test_hashes_sorted_sets_and_streams_have_the_shapes_the_sdk_reads(run: Run) -> None:
    script = """
    await redis.hset(`${key}:h`, { a: "x", b: 2 });
    await redis.zadd(`${key}:z`, { score: 1.5, member: "m" }, { score: 2, member: "n" });
    await redis.xadd(`${key}:s`, "1-1", { data: "a" });
    await redis.xadd(`${key}:s`, "1-2", { data: "b" });
    done({
      hash: await redis.hgetall(`${key}:h`),
      scan: (await redis.hscan(`${key}:h`, 0))[0],
      range: await redis.zrange(`${key}:z`, 0, -1, { withScores: true }),
      score: await redis.zscore(`${key}:z`, "m"),
      stream: await redis.xrange(`${key}:s`, "(1-1", "+"),
      read: await redis.xread(`${key}:s`, "1-1"),
      none: await redis.xread(`${key}:s`, "9-9"),
    });
    """
    answer = run(script)
    assert answer["read"][0][1] == [["1-2", ["data", "b"]]]
    del answer["read"]
    assert answer == {
        "hash": {"a": "x", "b": 2},
        "scan": "0",
        "range": ["m", 1.5, "n", 2],
        "score": 1.5,
        "stream": {"1-2": {"data": "b"}},
        "none": None,
    }


def test_pipelines_and_transactions_answer_item_by_item(run: Run) -> None:
    script = """
    const build = (batch) => batch.set(key, "x").incr(key).get(key);
    const kept = await build(redis.pipeline()).exec({ keepErrors: true });
    const raised = await failure(build(redis.pipeline()).exec());
    const multi = await redis.multi().set(key, 1).incr(key).get(key).exec();
    done({ kept, raised, multi });
    """
    answer = run(script)
    assert answer["kept"] == [
        {"result": "OK"},
        {"error": "ERR value is not an integer or out of range"},
        {"result": "x"},
    ]
    assert "Command 2 [ incr ] failed: ERR value is not an integer" in answer["raised"]
    assert answer["multi"] == ["OK", 2, 2]


def test_a_scan_tells_types_too(run: Run) -> None:
    script = """
    await redis.set(`${key}:text`, 1);
    await redis.hset(`${key}:hash`, { a: 1 });
    await redis.xadd(`${key}:stream`, "1-1", { a: 1 });
    const found = [];
    let cursor = "0";
    do {
      const options = { match: `${key}:*`, count: 1000, withType: true };
      const [next, page] = await redis.scan(cursor, options);
      found.push(...page);
      cursor = next;
    } while (cursor !== "0");
    done(found.map((one) => [one.key.slice(key.length), one.type]).sort());
    """
    assert run(script) == [[":hash", "hash"], [":stream", "stream"], [":text", "string"]]


def test_a_script_is_sent_when_its_sha_is_unknown(run: Run) -> None:
    script = """
    const script = redis.createScript(`return {KEYS[1], ARGV[1]} -- ${key}`);
    const first = await script.exec(["k"], ["v"]);
    const again = await script.exec(["k"], ["w"]);
    done({ first, again, load: await redis.scriptLoad("return ARGV[1]") });
    """
    assert run(script) == {
        "first": ["k", "v"],
        "again": ["k", "w"],
        "load": "098e0f0d1448c0a81dafe820f66d460eb09263da",
    }


def test_errors_name_their_command_and_a_wrong_token_is_told(run: Run) -> None:
    script = """
    await redis.set(key, "x");
    const single = new Redis({ url, token, retry: false, enableAutoPipelining: false });
    const stranger = new Redis({ url, token: "wrong", retry: false });
    const works = [redis.incr(key), single.incr(key), stranger.ping()];
    done(await Promise.all(works.map(failure)));
    """
    batched, single, stranger = run(script)
    assert "Command failed: ERR value is not an integer" in batched
    assert single.startswith("ERR value is not an integer or out of range, command was: [")
    assert "WRONGPASS" in stranger or "Unauthorized" in stranger


def test_the_sync_token_changes_with_every_write(run: Run) -> None:
    script = """
    const tokens = [];
    for (const work of [
      () => redis.set(key, 1),
      () => redis.pipeline().set(key, 2).exec(),
      () => redis.multi().set(key, 3).exec(),
      () => redis.eval("return redis.call('SET', KEYS[1], 4)", [key], []),
    ]) { await work(); tokens.push(redis.client.upstashSyncToken); }
    done(tokens);
    """
    tokens = run(script)
    assert len(set(tokens)) == 4
    assert all(isinstance(token, str) and token for token in tokens)


def test_a_subscription_gets_messages_in_order_until_it_is_left(run: Run) -> None:
    script = """
    const got = [];
    const subscription = redis.subscribe(`${key}/a b`);
    const counts = [];
    subscription.on("subscribe", (count) => counts.push(count));
    subscription.on("message", ({ message, channel }) => got.push(message));
    await until(() => counts.length);
    const receivers = await redis.publish(`${key}/a b`, { n: 0 });
    for (let n = 1; n < 20; n++) await redis.publish(`${key}/a b`, { n });
    for (const text of ["plain", "a,b,c", "", "长江 🌊"]) await redis.publish(`${key}/a b`, text);
    await until(() => got.length === 24);
    await subscription.unsubscribe();
    await until(async () => (await redis.publish(`${key}/a b`, "x")) === 0);
    done({ counts, receivers, got });
    """
    answer = run(script)
    assert (answer["counts"], answer["receivers"]) == ([1], 1)
    numbers: list[object] = [{"n": n} for n in range(20)]
    assert answer["got"] == [*numbers, "plain", "a,b,c", "", "长江 🌊"]


def test_two_subscriptions_count_one_each_and_publish_counts_both(run: Run) -> None:
    script = """
    const counts = [];
    const open = (name) => {
      const subscription = redis.subscribe(name);
      subscription.on("subscribe", (count) => counts.push(count));
      return subscription;
    };
    const [first, second] = [open([`${key}:1`, `${key}:2`]), open(`${key}:1`)];
    await until(() => counts.length === 3);
    const both = await redis.publish(`${key}:1`, "x");
    await second.unsubscribe();
    await until(async () => (await redis.publish(`${key}:1`, "x")) === 1);
    done({ counts, both, other: await redis.publish(`${key}:2`, "x") });
    """
    assert run(script) == {"counts": [1, 1, 1], "both": 2, "other": 1}


def test_a_pattern_gets_the_messages_of_its_channels(run: Run) -> None:
    script = """
    const got = [];
    const subscription = redis.psubscribe(`${key}:*`);
    let isLive = false;
    subscription.on("psubscribe", () => { isLive = true; });
    subscription.on("pmessage", (event) => got.push(event));
    await until(() => isLive);
    await redis.publish(`${key}:1`, { n: 1 });
    await redis.publish(`other:${key}`, { n: 2 });
    await redis.publish(`${key}:2`, { n: 3 });
    await until(() => got.length === 2);
    const short = (name) => name.replace(key, "");
    done(got.map((event) => [short(event.pattern), short(event.channel), event.message]));
    """
    assert run(script) == [[":*", ":1", {"n": 1}], [":*", ":2", {"n": 3}]]
