// One call of every command method of @upstash/redis, each after what it needs.
const plain = new Redis({ url, token, retry: false, enableAutoPipelining: false });
const k = key, soon = 9999999999;
const script = "return {KEYS[1], ARGV[1]}";
const sha = await redis.scriptLoad(script);
const z = `${k}z`, h = `${k}h`, l = `${k}l`, s = `${k}s`, g = `${k}g`, e = `${k}e`, b = `${k}b`;
const calls = [
  ["set", k, 1], ["get", k], ["append", k, "2"], ["decr", k], ["decrby", k, 2], ["incr", k],
  ["incrby", k, 2], ["incrbyfloat", k, 0.5], ["getex", k, { ex: 100 }], ["getrange", k, 0, 1],
  ["getset", k, "x"], ["setrange", k, 1, "y"], ["strlen", k], ["mset", { [k]: 1, [`${k}2`]: 2 }],
  ["mget", k, `${k}2`], ["msetnx", { [k]: 1 }], ["setex", k, 100, "x"], ["setnx", k, "x"],
  ["psetex", k, 100000, "x"],
  ["exists", k], ["expire", k, 100], ["expireat", k, soon], ["pexpire", k, 100000],
  ["pexpireat", k, soon * 1000], ["ttl", k], ["pttl", k], ["persist", k], ["type", k],
  ["touch", k], ["copy", k, `${k}3`], ["rename", `${k}3`, `${k}4`], ["renamenx", `${k}4`, `${k}3`],
  ["unlink", `${k}3`], ["del", `${k}2`], ["keys", `${k}*`], ["randomkey"], ["scan", 0], ["dbsize"],
  ["getdel", k],
  ["setbit", b, 7, 1], ["getbit", b, 7], ["bitcount", b, 0, -1], ["bitpos", b, 1],
  ["bitop", "and", `${k}c`, b],
  ["hset", h, { a: 1, b: 2, c: 3 }], ["hget", h, "a"], ["hgetall", h], ["hexists", h, "a"],
  ["hincrby", h, "a", 1], ["hincrbyfloat", h, "a", 0.5], ["hkeys", h], ["hlen", h],
  ["hmget", h, "a", "b"], ["hmset", h, { d: 1 }], ["hrandfield", h, 2, true], ["hscan", h, 0],
  ["hsetnx", h, "e", 1], ["hstrlen", h, "a"], ["hvals", h], ["hexpire", h, "a", 100],
  ["hexpireat", h, "a", soon], ["hpexpire", h, "a", 100000], ["hpexpireat", h, "a", soon * 1000],
  ["hexpiretime", h, "a"], ["hpexpiretime", h, "a"], ["httl", h, "a"], ["hpttl", h, "a"],
  ["hpersist", h, "a"], ["hgetex", h, { ex: 100 }, "a"],
  ["hsetex", h, { expiration: { ex: 100 } }, { f: 1 }], ["hgetdel", h, "f"], ["hdel", h, "a"],
  ["lpush", l, "a", "b"], ["rpush", l, "c", "d"], ["lpushx", l, "e"], ["rpushx", l, "f"],
  ["lindex", l, 0], ["linsert", l, "before", "a", "x"], ["llen", l],
  ["lmove", l, `${k}m`, "left", "right"], ["lmpop", 1, [`${k}m`], "LEFT"], ["lpos", l, "a"],
  ["lrange", l, 0, -1], ["lrem", l, 1, "x"], ["lset", l, 0, "y"], ["lpop", l], ["rpop", l],
  ["ltrim", l, 0, 1],
  ["sadd", s, "a", "b", "c"], ["scard", s], ["sdiff", s, `${k}t`], ["sdiffstore", `${k}t`, s],
  ["sinter", s, `${k}t`], ["sintercard", [s, `${k}t`]], ["sinterstore", `${k}u`, s, `${k}t`],
  ["sunion", s, `${k}t`], ["sunionstore", `${k}u`, s, `${k}t`], ["sismember", s, "a"],
  ["smembers", s], ["smismember", s, ["a", "z"]], ["smove", s, `${k}t`, "a"], ["srandmember", s],
  ["srem", s, "b"], ["sscan", s, 0], ["spop", s],
  ["zadd", z, { score: 1, member: "a" }, { score: 2.5, member: "b" }, { score: 3, member: "c" }],
  ["zcard", z], ["zcount", z, 0, 9], ["zdiffstore", `${k}y`, 1, z], ["zincrby", z, 1, "a"],
  ["zinterstore", `${k}x`, 2, [z, `${k}y`]], ["zlexcount", z, "-", "+"], ["zmscore", z, ["a", "q"]],
  ["zrange", z, 0, -1, { withScores: true }], ["zrank", z, "a"], ["zrevrank", z, "a"],
  ["zscan", z, 0], ["zscore", z, "a"], ["zunion", 2, [z, `${k}y`]],
  ["zunionstore", `${k}x`, 2, [z, `${k}y`]], ["zpopmax", z], ["zpopmin", z], ["zrem", z, "b"],
  ["zremrangebylex", `${k}y`, "[a", "[a"], ["zremrangebyrank", `${k}y`, 0, 0],
  ["zremrangebyscore", `${k}y`, 0, 9],
  ["geoadd", g, { longitude: 13.36, latitude: 38.11, member: "Palermo" },
    { longitude: 15.08, latitude: 37.5, member: "Catania" }],
  ["geodist", g, "Palermo", "Catania", "KM"], ["geohash", g, "Palermo"],
  ["geopos", g, "Palermo", "none"],
  ["geosearch", g, { type: "FROMMEMBER", member: "Palermo" },
    { type: "BYRADIUS", radius: 200, radiusType: "KM" }, "ASC"],
  ["geosearchstore", `${k}f`, g, { type: "FROMMEMBER", member: "Palermo" },
    { type: "BYRADIUS", radius: 200, radiusType: "KM" }, "ASC"],
  ["pfadd", `${k}p`, "a"], ["pfcount", `${k}p`], ["pfmerge", `${k}q`, `${k}p`],
  ["xadd", e, "1-1", { a: 1 }], ["xlen", e], ["xrange", e, "-", "+"], ["xrevrange", e, "+", "-"],
  ["xread", e, "0"], ["xgroup", e, { type: "CREATE", group: "g", id: "0" }],
  ["xreadgroup", "g", "c", e, ">"], ["xpending", e, "g", "-", "+", 9],
  ["xclaim", e, "g", "d", 0, "1-1"], ["xautoclaim", e, "g", "c", 0, "0"],
  ["xinfo", e, { type: "GROUPS" }], ["xack", e, "g", "1-1"], ["xackdel", e, "g", "1-1"],
  ["xdelex", e, "1-1"], ["xdel", e, "1-1"],
  ["xtrim", e, { strategy: "MAXLEN", threshold: 0, exactness: "=" }],
  ["scriptLoad", script], ["scriptExists", sha], ["eval", script, [k], ["x"]],
  ["evalRo", script, [k], ["x"]], ["evalsha", sha, [k], ["x"]], ["evalshaRo", sha, [k], ["x"]],
  ["publish", k, "x"], ["ping"], ["echo", "x"], ["time"], ["clientSetinfo", "LIB-NAME", "x"],
  ...(url.includes("127.0.0.1") ? [["scriptFlush"], ["flushdb"], ["flushall"]] : []),
];
const notCommands = `constructor client opts enableTelemetry enableAutoPipelining use addTelemetry
  pipeline autoPipeline autoPipelineExecutor multi bitfield exec psubscribe subscribe functions json
  search vector createScript readYourWritesSyncToken length scriptFlush flushdb flushall commands
  commandOptions multiExec`.split(/\s+/);
const failed = {};
const note = async (name, work) => {
  try { await work(); } catch (error) { failed[name] = error.message; }
};
for (const [name, ...args] of calls) await note(name, () => plain[name](...args));
await note("bitfield", () => plain.bitfield(b).get("u8", 0).exec());
await note("createScript", () => plain.createScript(script).exec([k], ["x"]));
const code = "#!lua name=lib\nredis.register_function{function_name='f', callback=function(k, a)"
  + " return a[1] end, flags={'no-writes'}}";
await note("function load", () => plain.functions.load({ code, replace: true }));
await note("function list", () => plain.functions.list());
await note("function stats", () => plain.functions.stats());
await note("fcall", () => plain.functions.call("f", [k], ["x"]));
await note("fcall_ro", () => plain.functions.callRo("f", [k], ["x"]));
await note("function delete", () => plain.functions.delete("lib"));
await note("JSON.*", () => plain.json.set(k, "$", { a: 1 }));
await note("SEARCH.*", () => plain.exec(["SEARCH.QUERY", "i", "{}"]));
await note("VECTOR.*", () => plain.exec(["VECTOR.INFO", "v"]));
const methods = Object.keys(plain.pipeline());
for (const name of methods.filter((name) => /^ar[a-z]/.test(name))) {
  await note(name, () => plain.exec([name.toUpperCase(), k]));
}
const called = new Set([...calls.map(([name]) => name), ...notCommands]);
const uncalled = methods.filter((name) => !called.has(name) && !/^ar[a-z]/.test(name));
done({ failed, uncalled });
