"""Values for arguments, as SQL expressions: what a caller would give, what nobody should, and bytes at random.

An expression stands for itself in a statement, so whatever a run did can be pasted into psql.
"""

import json

HUGE = 1 << 20

TEXTS = (
    "", " ", "NULL", "null", "\\N", "\\", ",", "a,b", "'", "''; DROP TABLE app.plain; --", '"', "%", "%s%n", "%I", "$$",
    "\n", "\t", "\x01", "\x7f", "\u00e9", "\u202etxt", "\ufeff", "\U0001f600", "\U0010ffff", "e\u0301", "0", "-1", "1e400000",
    "{}", "[]", "{1,2}", "pg_catalog", "pg_class", "public", "jobstate", "app.plain", "id", "state", "ctid", "tableoid",
    "x" * 63, "x" * 64, "y" * 2001, "infinity", "today", "always: new", "any(new): done", "a -> b", "a->", "-> b", "any(", "all()",
    "* * * * *", "*/0 * * * *", "0 0 31 2 *", "59 23 29 2 *", "every 1s", "every 0s", "every 99999999999999999999 days", "24:00",
    "1-0 * * * *", "5/99999999999 * * * *", "every -1 h", "0 0 1 1 0 0",
)

# What neither comes from the catalogue nor is an edge of something.
INTEGERS = {
    "smallint": (0, 1, -1, 2, 3, 7, 32767, -32768),
    "integer": (0, 1, -1, 2, 3, 10, 100, 1000, 2147483647, -2147483648),
    "bigint": (0, 1, -1, 2, 3, 10, 2147483648, 1 << 40, (1 << 63) - 1, -(1 << 63)),
    "oid": (0, 1, 1259, 4294967295),
}

NUMBERS = ("0", "1", "-1", "0.5", "-0.0", "'NaN'", "'Infinity'", "'-Infinity'", "1e300", "-1e300", "1e-300", "99.999999999")

INTERVALS = (
    "0", "1 s", "-1 s", "1 us", "10 min", "1 day", "30 days", "1 mon", "1 mon -30 days", "-1 mon 31 days", "178000000 years",
    "-178000000 years", "2147483647 days", "-2147483648 days", "2562047788:00:54.775807", "-2562047788:00:54.775808", "1000 years",
)

TIMES = (
    "now", "epoch", "infinity", "-infinity", "4713-01-01 00:00 BC", "294276-12-31 23:59:59.999999", "2024-02-29 12:00",
    "2026-03-29 02:30", "1900-01-01", "9999-12-31",
)

RELATIONS = (
    "app.plain", "app.whole", "app.low", "app.high", "app.high_odd", "app.mother", "app.daughter", "app.parent", "app.child",
    "app.secret", "app.bare", "app.typed", "app.protected", "app.look", "app.kept", "app.counter", "app.plain_pkey", "app.far", "app.shape",
    "app.toasted", "app.alias", "jobstate.attachment", "jobstate.attachments", "jobstate.log_0", "jobstate.base_recent",
    "jobstate.state", "jobstate.rollup", "jobstate.derivation", "jobstate.metrics", "jobstate.job", "jobstate.job_0",
    "jobstate.job_waiting", "jobstate.queue", "jobstate.upload", "jobstate.apply", "jobstate.apply_operation",
    "jobstate.schedule", "pg_class", "pg_attribute", "pg_authid", "pg_index", "pg_largeobject", "pg_statistic", "pg_stat_activity",
    "information_schema.tables", "pg_toast.pg_toast_1255", "pg_class_oid_index", "0", "1", "4294967295", "pg_temp.mine",
)

# Of another session; its schema has a number that only the run knows.
ELSEWHERE = "(SELECT oid FROM pg_class WHERE relname = 'of_another_session')::regclass"

COLUMNS = (
    "id", "state", "at", "g", "h", "parent", "note", "made", "done_at", "error", "reason", "ord", "variant", "ctid", "xmin", "tableoid",
    "missing", "", "........pg.dropped.1........", "state_id", "created_at", "x" * 63,
)

KEYS = (
    "a", "status", "state", "progress", "percent", "input", "result", "error", "artifacts", "completed_at", "created_at", "id",
    "token", "deployment", "deployments", "kind", "key", "tables", "max_retries", "variant", "max_attempts", "backoff", "lease", "cap",
    "max_failures", "max_running", "max_running_per_key", "paused", "priorities", "shards", "slots", "slot_jobs", "retain", "grace",
    "g", "h", "ttl", "new", "", "\u00e9", "upload_id", "success", "order", "env", "mode",
)

JSON = (
    "null", "{}", "[]", "1", "-0.0", "true", '""', '"x"', "[null]", '{"": null}', '{"a": 1, "a": 2}', '{"a": 1e1000}',
    '{"a": 1e-1000}', '"\\u0001"', '{"g": "x"}', '{"g": 1}', '{"g": null}', '{"g": [1], "h": {}}', '{"missing": 1}', "[[[[[[]]]]]]",
    '{"new": 1, "ready": 2, "busy": 3, "done": 10, "failed": -3}', '{"new": 1, "new ": 32768}', '{"a": 1.5}', '{"a": 99999999999}',
    '["new", "done"]', '[{"deployment": "eu"}, {"deployment": "eu"}]', '[{"deployment": null}]', '[{"state": "x"}, 1]',
)


def quoted(text):
    """The text as a literal that means the same under every setting."""
    if "\\" in text or any(ord(c) < 32 for c in text):
        return "E'" + text.replace("\\", "\\\\").replace("'", "''").replace("\n", "\\n").replace("\t", "\\t") \
            .replace("\x01", "\\x01") + "'"
    return "'" + text.replace("'", "''") + "'"


class Values:
    """Chooses expressions. `known` has what is in the database, by the names of columns; `words` are a function's own."""

    def __init__(self, random, known):
        self.random = random
        self.known = known
        self.makers = {
            "boolean": self.boolean, "text": self.text, "name": self.column, "regclass": self.relation, "oid": self.integer,
            "smallint": self.integer, "integer": self.integer, "bigint": self.integer, "numeric": self.number,
            "double precision": self.number, "interval": self.interval, "uuid": self.uuid, "jsonb": self.json,
            "regrole": self.role, "regtype": self.type, "regprocedure": self.procedure, "anyelement": self.element,
            "timestamp with time zone": self.time, "timestamp without time zone": self.time,
            "time without time zone": self.clock,
        }

    def value(self, name, type, words):
        """An argument's value: NULL in any place, a known one as often as an odd one."""
        random = self.random
        if random.random() < 0.06:
            return "NULL" if type.startswith("any") else f"NULL::{type}"
        if type == "anyarray":
            return self.array(name, random.choice(("text", "integer", "jsonb")), words)
        if type.endswith("[]"):
            return self.array(name, type[:-2], words)
        return self.one(name, type, words)

    def one(self, name, type, words):
        known = self.known.get((name, type)) or self.known.get((name.removesuffix("s"), type))
        if known and self.random.random() < 0.55:
            return f"{quoted(self.random.choice(known))}::{type}"
        if type == "text" and words and self.random.random() < 0.4:
            return quoted(self.random.choice(words)) + "::text"
        return self.makers[type](type)

    def array(self, name, type, words):
        random = self.random
        shape = random.random()
        if shape < 0.07:
            return f"'{{}}'::{type}[]"
        elements = [self.one(name, type, words) for _ in range(random.choice((1, 1, 2, 2, 3, 5)))]
        if shape < 0.14:
            elements.append(f"NULL::{type}")
        if shape < 0.21:
            elements += elements
        if shape < 0.25:
            return f"array_fill({elements[0]}, ARRAY[{len(elements)}], ARRAY[{random.choice((-3, 0, 5))}])"
        if shape < 0.29:
            return f"ARRAY[{', '.join(f'ARRAY[{e}]' for e in elements)}]::{type}[]"
        if shape < 0.31:
            return f"array_fill({elements[0]}, ARRAY[3000])"
        if shape < 0.32:
            return f"ARRAY(SELECT NULL::{type} FROM generate_series(1, 500))"
        return f"ARRAY[{', '.join(elements)}]::{type}[]"

    # a type each

    def boolean(self, type):
        return self.random.choice(("true", "false"))

    def text(self, type):
        random = self.random
        kind = random.random()
        if kind < 0.04:
            return f"repeat('{random.choice(('x', '(', '[', ',', '*/'))}', {HUGE})"
        if kind < 0.25:
            points = (random.choice((random.randrange(1, 128), random.randrange(128, 0x800), random.randrange(0x10000, 0x110000)))
                      for _ in range(random.randrange(1, 30)))
            return f"convert_from('\\x{''.join(map(chr, points)).encode().hex()}', 'UTF8')"
        return quoted(random.choice(TEXTS)) + "::text"

    def column(self, type):
        return quoted(self.random.choice(COLUMNS)) + "::name"

    def relation(self, type):
        if self.random.random() < 0.03:
            return ELSEWHERE
        if self.random.random() < 0.5:
            return quoted(self.random.choice(RELATIONS[:8])) + "::regclass"
        return quoted(self.random.choice(RELATIONS)) + "::regclass"

    def integer(self, type):
        if type in ("bigint", "integer") and self.random.random() < 0.4:
            return f"{self.random.randrange(1, 40)}::{type}"
        return f"({self.random.choice(INTEGERS[type])})::{type}"

    def number(self, type):
        return f"({self.random.choice(NUMBERS)})::{type}"

    def interval(self, type):
        return f"'{self.random.choice(INTERVALS)}'::interval"

    def time(self, type):
        return f"'{self.random.choice(TIMES)}'::{type}"

    def clock(self, type):
        return self.random.choice(("'00:00'::time", "'24:00'::time", "'23:59:59.999999'::time"))

    def uuid(self, type):
        return self.random.choice(("'00000000-0000-0000-0000-000000000000'::uuid",
                                   "'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid", "gen_random_uuid()"))

    def json(self, type):
        random = self.random
        kind = random.random()
        if kind < 0.03:
            return "(repeat('[', 5000) || repeat(']', 5000))::jsonb"
        if kind < 0.06:
            return "(repeat('{\"a\":', 3000) || '1' || repeat('}', 3000))::jsonb"
        if kind < 0.09:
            return f"jsonb_build_object({quoted(random.choice(KEYS))}, repeat('x', {HUGE}))"
        if kind < 0.5:
            return quoted(random.choice(JSON)) + "::jsonb"
        return quoted(json.dumps(self.document(3))) + "::jsonb"

    def document(self, depth):
        random = self.random
        if depth == 0 or random.random() < 0.4:
            return random.choice((None, True, False, 0, 1, -1, 1.5, 10 ** 30, "", "x", "new", "done", "10 s", "-1 s", "1e9 years", "eu",
                                  "completed", "failed", "99999999999999999999", 2147483648, "\u00e9", "x" * 3000))
        if random.random() < 0.25:
            return [self.document(depth - 1) for _ in range(random.randrange(4))]
        return {random.choice(KEYS): self.document(depth - 1) for _ in range(random.randrange(1, 5))}

    def role(self, type):
        return self.random.choice(("'fuzz_worker'", "'fuzz_plain'", "'pg_monitor'", "0", "4294967295")) + "::regrole"

    def type(self, type):
        return self.random.choice(("'integer'", "'app.mood'", "'app.positive'", "'record'", "'app.shape'", "0", "1")) + "::regtype"

    def procedure(self, type):
        return self.random.choice(("'jobstate.watch()'", "'jobstate.health(boolean,interval)'", "'now()'", "0", "1")) + "::regprocedure"

    def element(self, type):
        return self.random.choice(("1", "'x'::text", "NULL::text", "ROW(1, 'x')", "'{1}'::integer[]", "'sad'::app.mood"))
