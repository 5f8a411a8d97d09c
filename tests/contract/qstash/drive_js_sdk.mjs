// Drives the official @upstash/qstash through its whole API; test_js_sdk.py starts it.
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const require = createRequire(process.argv[2] + "/package.json");
const { Client, Receiver } = await import(pathToFileURL(require.resolve("@upstash/qstash")));
const [baseUrl, token, target, current, next] = process.argv.slice(3);
const client = new Client({ baseUrl, token, retry: false, enableTelemetry: true });

async function until(condition) {
  const deadline = Date.now() + 8000;
  for (;;) {
    const value = await condition();
    if (value) return value;
    assert(Date.now() < deadline, `nothing came: ${condition}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
const isNotFound = (error) => error.status === 404;
const states = async (messageId) =>
  (await client.logs({ filter: { messageId } })).logs.map((log) => log.state);
const isDelivered = (messageId) => async () => (await states(messageId)).includes("DELIVERED");

const steps = {
  async publish() {
    const sent = await client.publishJSON({
      url: `${target}/js?a=1&b=%2F`, body: { hello: "world" }, headers: { "test-header": "v" },
      label: "js", retries: 2, retryDelay: "1000 * retried", timeout: 30,
      flowControl: { key: "js-flow", parallelism: 3, rate: 50, period: "2s" },
      redact: { header: ["test-header"] },
    });
    await until(isDelivered(sent.messageId));
    const message = await client.messages.get(sent.messageId);
    assert.equal(message.label, "js");
    assert.equal(message.maxRetries, 2);
    assert.deepEqual(Object.keys(message.header).sort(), ["Content-Type", "Test-Header"]);
    assert.match(message.header["Test-Header"][0], /^REDACTED:[0-9a-f]{64}$/);
    assert.equal(message.body, '{"hello":"world"}');
    const info = await client.flowControl.get("js-flow");
    assert.deepEqual([info.parallelismMax, info.rateMax, info.ratePeriod], [3, 50, 2]);
    assert.equal((await states(sent.messageId)).filter((s) => s === "DELIVERED").length, 1);
    const first = await client.publish({ url: target, deduplicationId: "js-once" });
    const second = await client.publish({ url: target, deduplicationId: "js-once" });
    assert.equal(second.deduplicated, true);
    assert.equal(second.messageId, first.messageId);
    const empty = await client.messages.get(first.messageId);
    assert.equal(empty.body, undefined);
  },
  async cancel() {
    const sent = await client.batch(
      ["a", "b", "b", "c"].map((label) => ({ url: target, delay: "1h", label })),
    );
    assert.deepEqual(await client.messages.cancel(sent[0].messageId), { cancelled: 1 });
    assert.deepEqual(await client.messages.cancel([sent[0].messageId, "msg_x"]), { cancelled: 0 });
    assert.deepEqual(await client.messages.cancel({ filter: { label: "b" } }), { cancelled: 2 });
    assert.deepEqual(await client.messages.cancel({ all: true }), { cancelled: 1 });
    await assert.rejects(client.messages.cancel(sent[3].messageId), isNotFound);
  },
  async batches() {
    const sent = await client.batchJSON([
      { url: `${target}/one`, body: { n: 1 } },
      { queueName: "js-batch", url: `${target}/two`, body: { n: 2 } },
    ]);
    for (const one of sent) await until(isDelivered(one.messageId));
    assert.equal((await client.messages.get(sent[1].messageId)).queueName, "js-batch");
  },
  async queues() {
    const queue = client.queue({ queueName: "js-queue" });
    await queue.upsert({ parallelism: 2, paused: true });
    const sent = await queue.enqueueJSON({ url: `${target}/q`, body: { x: 1 } });
    const paused = await queue.get();
    assert.deepEqual([paused.parallelism, paused.paused, paused.lag], [2, true, 1]);
    await queue.resume();
    await until(isDelivered(sent.messageId));
    await queue.pause();
    assert.equal((await queue.get()).paused, true);
    for (const found of await client.queue().list())
      await client.queue({ queueName: found.name }).delete();
    assert.deepEqual(await client.queue().list(), []);
    await assert.rejects(queue.get(), isNotFound);
  },
  async groups() {
    const groups = client.urlGroups;
    await groups.delete("js-group");
    const endpoints = [{ url: `${target}/g1`, name: "first" }, { url: `${target}/g2` }];
    await groups.addEndpoints({ name: "js-group", endpoints });
    const sent = await client.publishJSON({ urlGroup: "js-group", body: {} });
    assert.deepEqual(sent.map((one) => one.url), [`${target}/g1`, `${target}/g2`]);
    for (const one of sent) await until(isDelivered(one.messageId));
    await groups.removeEndpoints({ name: "js-group", endpoints: [{ name: "first" }] });
    assert.equal((await groups.get("js-group")).endpoints.length, 1);
    assert.equal((await groups.list()).length, 1);
    await groups.delete("js-group");
    await assert.rejects(groups.get("js-group"), isNotFound);
  },
  async schedules() {
    const { scheduleId } = await client.schedules.create({
      destination: target, cron: "CRON_TZ=Europe/Berlin 0 9 * * 1", body: "b", delay: 10,
      queueName: "js-sched", headers: { "bypass-tunnel-reminder": "true" },
    });
    const made = await client.schedules.get(scheduleId);
    assert.equal(made.isPaused, false);
    assert.equal(made.delay, 10);
    assert.deepEqual(made.header, {
      "Bypass-Tunnel-Reminder": ["true"], "Content-Type": ["application/json"],
    });
    await client.schedules.pause({ schedule: scheduleId });
    assert.equal((await client.schedules.get(scheduleId)).isPaused, true);
    await client.schedules.resume({ schedule: scheduleId });
    assert.deepEqual((await client.schedules.list()).map((one) => one.scheduleId), [scheduleId]);
    await client.schedules.delete(scheduleId);
    await assert.rejects(client.schedules.get(scheduleId), isNotFound);
    const bad = client.schedules.create({ destination: target, cron: "never" });
    await assert.rejects(bad, (error) => error.status === 400);
  },
  async deadLetters() {
    for (const label of ["x", "x", "y"])
      await client.publish({ url: `${target}/fails`, retries: 0, label, body: label });
    const dead = await until(async () => {
      const { messages } = await client.dlq.listMessages();
      return messages.length === 3 && messages;
    });
    assert.equal(dead[0].responseStatus, 404);
    assert.equal(dead[0].responseBody, "Not Found");
    const page = await client.dlq.listMessages({ count: 2 });
    assert.equal(page.messages.length, 2);
    assert.equal((await client.dlq.listMessages({ cursor: page.cursor })).cursor, undefined);
    const byLabel = await client.dlq.listMessages({ filter: { label: "y" } });
    assert.equal(byLabel.messages.length, 1);
    const { responses } = await client.dlq.retry(byLabel.messages[0].dlqId);
    assert.match(responses[0].messageId, /^msg_/);
    await assert.rejects(client.dlq.delete(byLabel.messages[0].dlqId), isNotFound);
    assert.deepEqual((await client.dlq.delete({ filter: { label: "x" } })).deleted, 2);
    await assert.rejects(client.dlq.delete({ filter: { labeel: "x" } }), (e) => e.status === 400);
    await until(async () => (await client.dlq.listMessages()).messages.length === 1);
    assert.equal((await client.dlq.delete({ all: true })).deleted, 1);
  },
  async flowControl() {
    const { flowControl } = client;
    await client.publish({ url: target, flowControl: { key: "js-pin", rate: 5 } });
    await flowControl.pause("js-pin");
    assert.equal((await flowControl.get("js-pin")).isPaused, true);
    await flowControl.resume("js-pin");
    await flowControl.pin("js-pin", { parallelism: 7, rate: 9, period: 3 });
    const pinned = await flowControl.get("js-pin");
    assert.deepEqual(
      [pinned.parallelismMax, pinned.rateMax, pinned.isPinnedParallelism, pinned.isPinnedRate],
      [7, 9, true, true],
    );
    await flowControl.unpin("js-pin", { parallelism: true, rate: true });
    await flowControl.resetRate("js-pin");
    assert.equal((await flowControl.get("js-pin")).rateCount, 0);
    assert.equal(typeof (await flowControl.getGlobalParallelism()).parallelismMax, "number");
  },
  async events() {
    const page = await client.events({ count: 2 });
    assert.equal(page.events.length, 2);
    const rest = await client.events({ cursor: page.cursor, count: 2 });
    assert.notDeepEqual(rest.events, page.events);
    for (const event of (await client.events({ filter: { label: "js" } })).events)
      assert.equal(event.label, "js");
  },
  async signatures() {
    const seen = await (await fetch(`${target}/seen`)).json();
    assert(seen.length >= 8);
    const receiver = new Receiver({ currentSigningKey: current, nextSigningKey: next });
    for (const { url, body, signature } of seen)
      assert.equal(await receiver.verify({ signature, body, url }), true);
    await assert.rejects(receiver.verify({ ...seen[0], body: "other" }));
  },
};

for (const [name, step] of Object.entries(steps)) {
  await step();
  console.log(`ok ${name}`);
}
