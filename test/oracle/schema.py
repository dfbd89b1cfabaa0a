"""The tables that the harness runs on: what they are made of, and how to ask what is in them.

Each kind of column has values in several spellings that are equal to their type, because a group is a value and not
a spelling. Few values per kind: groups are to be hot.
"""

from dataclasses import dataclass, replace

STATES = {"new": 1, "ready": 2, "busy": 3, "done": 10, "failed": -3}


@dataclass(frozen=True)
class Kind:
    type: str
    values: tuple  # of tuples of equal spellings
    collate: str = ""


KINDS = {
    "int": Kind("integer", (("1",), ("2",), ("3",))),
    "bigint": Kind("bigint", (("1",), ("2",), ("3",), ("4",))),
    "bool": Kind("boolean", (("true", "t"), ("false",))),
    "numeric": Kind("numeric", (("1", "1.0", "1.00"), ("2.5", "2.50"), ("NaN",))),
    "float": Kind("float8", (("0", "-0", "-0.0"), ("NaN",), ("1.5", "15e-1"), ("Infinity",))),
    "text": Kind("text", (("plain",), (" blank ",), ('q"uo\'te\\',), ("",))),
    "folded": Kind("text", (("Foo", "foo", "FOO"), ("bar", "Bar")), "COLLATE oracle.folded"),
    "folded_array": Kind("text[]", (("{Foo,bar}", "{FOO,BAR}"), ("{foo}", "{Foo}")), "COLLATE oracle.folded"),
    "padded": Kind("char(5)", (("ab", "ab  "), ("c", "c    "))),
    "moment": Kind("timestamptz", (("2024-03-01 12:00:00+00", "2024-03-01 14:00:00+02"),
                                   ("2024-07-05 01:30:00.123456+00", "2024-07-04 20:30:00.123456-05"),
                                   ("infinity",))),
    "day": Kind("date", (("2024-02-03",), ("2024-03-02",), ("0044-03-15 BC",))),
    "clock": Kind("timetz", (("12:00:00+00",), ("14:00:00+02",))),
    "interval": Kind("interval", (("1 day", "24:00:00"), ("1 mon", "30 days", "29 days 24:00:00"), ("-1 day -02:00:00",))),
    "uuid": Kind("uuid", (("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "A0EEBC999C0B4EF8BB6D6BB9BD380A11"),
                          ("00000000-0000-0000-0000-000000000000",))),
    "ints": Kind("integer[]", (("{1,2}",), ("{}",), ("{1,NULL}",))),
    "numerics": Kind("numeric[]", (("{1,2.50}", "{1.0,2.5}"), ("{3}", "{3.000}"))),
    "json": Kind("jsonb", (('{"a": 1.0, "b": []}', '{"b": [], "a": 1.00}'), ('"text"',), ("null",))),
    "domain": Kind("oracle.amount", (("7.10", "7.1"), ("8", "8.0"))),
    "colour": Kind("oracle.colour", (("red",), ("green",), ("blue",))),
    "bytes": Kind("bytea", (("\\x00ff",), ("\\x5c", "\\\\"))),
    "range": Kind("numrange", (("[1,2.50)", "[1.0,2.5)"), ("empty",))),
    "network": Kind("inet", (("10.0.0.1", "10.0.0.1/32"), ("::1",))),
}


@dataclass(frozen=True)
class Column:
    name: str
    kind: Kind
    nullable: bool = True


@dataclass(frozen=True)
class Table:
    name: str
    state_type: str
    groups: tuple = ()
    key: str = "id"
    needs: tuple = ()  # columns beside the usual that an INSERT must give
    extra: str = ""  # further columns
    partition_by: str = ""
    parts: tuple = ()  # statements that make the partitions
    truncatable: tuple = ()  # what may be truncated beside the table itself
    single_key: bool = True  # transition() and take() work
    owner: int = None  # the only session that writes it
    part_of: str = ""  # the attached table that this is a partition of
    written: bool = True  # whether sessions write it by this name
    moves_by: str = ""  # the column by which rows change their partition
    family: bool = False  # foreign keys lead here or from here

    def state(self, name):
        """A state as a literal."""
        if self.state_type in ("integer", "smallint"):
            return f"{STATES[name]}::{self.state_type}"
        return f"'{name}'::{self.state_type}"

    def state_text(self, name):
        return str(STATES[name]) if self.state_type in ("integer", "smallint") else name

    def state_name(self, expression):
        """The name of the state that an expression of the column's type tells."""
        if self.state_type in ("integer", "smallint"):
            return f"oracle.state_name({expression})"
        return f"({expression})::text"

    def state_value(self, expression):
        """The column's value for a state by name."""
        if self.state_type in ("integer", "smallint"):
            return f"oracle.state_id({expression})::{self.state_type}"
        return f"({expression})::{self.state_type}"

    def step(self, expression, choice):
        """A legal next state."""
        return self.state_value(f"oracle.step({self.state_name(expression)}, {choice})")

    def misstep(self, expression):
        """A state that must not follow."""
        return self.state_value(f"oracle.misstep({self.state_name(expression)})")

    @property
    def columns(self):
        return ["id", "state", *[column.name for column in self.groups], "born", *self.needs]

    @property
    def attached(self):
        return self.part_of or self.name

    def ddl(self):
        """What makes the table and attaches it; a partition is made with its whole."""
        if self.part_of:
            return
        columns = ["id bigint NOT NULL", f"state {self.state_type} NOT NULL",
                   *[f"{c.name} {c.kind.type} {c.kind.collate}{'' if c.nullable else ' NOT NULL'}" for c in self.groups],
                   "born timestamptz NOT NULL DEFAULT '2024-01-01 00:00+00'", "note text",
                   *([self.extra] if self.extra else []), f"PRIMARY KEY ({self.key})"]
        yield f"CREATE TABLE {self.name} ({', '.join(columns)}) {self.partition_by}" + \
            ("" if self.partition_by else " WITH (fillfactor = 60)")
        yield from self.parts
        groups = ", ".join(f"'{c.name}'" for c in self.groups)
        yield f"CREATE TRIGGER journal AFTER DELETE ON {self.name} FOR EACH ROW " \
              f"EXECUTE FUNCTION oracle.journal('{self.name}'{', ' if groups else ''}{groups})"
        yield self.attach()

    def attach(self):
        groups = ",".join(c.name for c in self.groups)
        return f"SELECT jobstate.attach('{self.name}', 'oracle', 'state', '{{{groups}}}')"


def literal(column, spelling):
    if spelling is None:
        return f"NULL::{column.kind.type}"
    return "'" + spelling.replace("'", "''") + f"'::{column.kind.type}" if "\\" not in spelling else \
        " E'" + spelling.replace("\\", "\\\\").replace("'", "''") + f"'::{column.kind.type}"


def columns(*kinds, **options):
    return tuple(Column(f"g{i}", KINDS[kind], **options) for i, kind in enumerate(kinds, 1))


LISTED_BUSY = "ALTER TABLE oracle.listed ATTACH PARTITION oracle.listed_busy FOR VALUES IN ('busy')"


def listed():
    return Table(
        "oracle.listed", "text", columns("int"), key="id, state", single_key=False, moves_by="state",
        partition_by="PARTITION BY LIST (state)",
        parts=("CREATE TABLE oracle.listed_open PARTITION OF oracle.listed FOR VALUES IN ('new', 'ready')",
               "CREATE TABLE oracle.listed_busy (LIKE oracle.listed INCLUDING ALL)", LISTED_BUSY,
               "CREATE TABLE oracle.listed_closed PARTITION OF oracle.listed FOR VALUES IN ('done', 'failed')"
               " PARTITION BY RANGE (id)",
               "CREATE TABLE oracle.listed_closed_low PARTITION OF oracle.listed_closed FOR VALUES FROM (MINVALUE) TO (40)",
               "CREATE TABLE oracle.listed_closed_high PARTITION OF oracle.listed_closed FOR VALUES FROM (40) TO (MAXVALUE)"),
        truncatable=("oracle.listed_open", "oracle.listed_busy", "oracle.listed_closed", "oracle.listed_closed_low"))


RANGED_MIDDLE = "ALTER TABLE oracle.ranged ATTACH PARTITION oracle.ranged_middle FOR VALUES FROM (2) TO (3)"


def ranged():
    """One partition has its columns in another order, and one that is gone."""
    return Table(
        "oracle.ranged", "smallint", (Column("g1", KINDS["numeric"], False), Column("g2", KINDS["folded"])),
        key="id, g1", single_key=False, moves_by="g1", partition_by="PARTITION BY RANGE (g1)",
        parts=("CREATE TABLE oracle.ranged_low PARTITION OF oracle.ranged FOR VALUES FROM (0) TO (2)",
               "CREATE TABLE oracle.ranged_middle (gone text, note text, g2 text COLLATE oracle.folded, g1 numeric NOT NULL,"
               " born timestamptz NOT NULL DEFAULT '2024-01-01 00:00+00', state smallint NOT NULL, id bigint NOT NULL)",
               "ALTER TABLE oracle.ranged_middle DROP COLUMN gone", RANGED_MIDDLE,
               "CREATE TABLE oracle.ranged_rest PARTITION OF oracle.ranged DEFAULT PARTITION BY HASH (id)",
               "CREATE TABLE oracle.ranged_rest_0 PARTITION OF oracle.ranged_rest FOR VALUES WITH (MODULUS 2, REMAINDER 0)",
               "CREATE TABLE oracle.ranged_rest_1 PARTITION OF oracle.ranged_rest FOR VALUES WITH (MODULUS 2, REMAINDER 1)"),
        truncatable=("oracle.ranged_low", "oracle.ranged_middle", "oracle.ranged_rest"))


def family():
    """A parent whose code changes, its children, and children whose constraints wait for the commit."""
    return [
        Table("oracle.parent", "text", columns("colour"), extra="code bigint NOT NULL UNIQUE", needs=("code",), family=True),
        Table("oracle.child", "integer", (Column("code", KINDS["bigint"]),), family=True,
              extra="FOREIGN KEY (code) REFERENCES oracle.parent (code) ON DELETE CASCADE ON UPDATE CASCADE"),
        Table("oracle.pledge", "oracle.state", (Column("code", KINDS["bigint"]),), family=True,
              extra="FOREIGN KEY (code) REFERENCES oracle.parent (code) ON DELETE CASCADE ON UPDATE CASCADE"
                    " DEFERRABLE INITIALLY DEFERRED"),
    ]


def shared(sessions):
    """A table whose groups all sessions change, each in a partition of its own: they share nothing but the counters."""
    whole = Table("oracle.shared", "smallint", columns("moment"), key="id, owner", extra="owner integer NOT NULL",
                  partition_by="PARTITION BY LIST (owner)", written=False,
                  parts=tuple(statement for n in range(sessions) for statement in
                              (f"CREATE TABLE oracle.shared_{n} PARTITION OF oracle.shared"
                               f" (owner DEFAULT {n}) FOR VALUES IN ({n})",)))
    return [whole, *[replace(whole, name=f"oracle.shared_{n}", part_of=whole.name, partition_by="", owner=n,
                             single_key=False, written=True, truncatable=()) for n in range(sessions)]]


# One at a time: beside another one that is brought together by value, a kind that should be is not missed.
OWN = ("interval", "numeric", "json", "padded", "float", "folded_array", "range", "clock", "bytes", "day")


def tables(sessions):
    made = [
        Table("oracle.plain", "integer"),
        Table("oracle.named", "text", columns("int")),
        Table("oracle.awkward", "oracle.state",
              columns("numeric", "float", "folded", "moment", "colour", "interval", "uuid", "ints")),
        Table("oracle.strange", "varchar(20)",
              columns("json", "domain", "folded_array", "padded", "day", "bytes", "range", "numerics")),
        Table("oracle.mixed", "smallint", columns("bool", "text", "clock", "network")),
        listed(), ranged(), *family(),
        Table("oracle.echo", "text", columns("text"), written=False),
        Table("oracle.wide", "integer", columns("bigint")), *shared(sessions),
    ]
    return made + [Table(f"oracle.own_{n}", "text", columns(OWN[n % len(OWN)]), owner=n) for n in range(sessions)]


MACHINE = """SELECT jobstate.define_machine('oracle', '{"new": 1, "ready": 2, "busy": 3, "done": 10, "failed": -3}',
    ARRAY['new -> ready', 'new -> failed: rejected', 'ready -> busy: taken', 'busy -> done', 'busy -> failed',
          'busy -> ready: released', 'failed -> ready: retried'], '{new,ready}', '{done,failed}')"""

PREPARE = (
    "DROP SCHEMA IF EXISTS oracle CASCADE",
    "CREATE EXTENSION IF NOT EXISTS jobstate",
    "CREATE SCHEMA oracle",
    "CREATE COLLATION oracle.folded (provider = icu, locale = 'und-u-ks-level2', deterministic = false)",
    "CREATE TYPE oracle.state AS ENUM ('failed', 'done', 'busy', 'ready', 'new')",
    "CREATE TYPE oracle.colour AS ENUM ('red', 'green', 'blue')",
    "CREATE DOMAIN oracle.amount AS numeric CHECK (VALUE > 0)",
    MACHINE,
    """CREATE FUNCTION oracle.step(state text, choice int) RETURNS text IMMUTABLE LANGUAGE sql AS $$
       SELECT coalesce((CASE state WHEN 'new' THEN '{ready,failed,ready}' WHEN 'ready' THEN '{busy,busy,ready}'
                             WHEN 'busy' THEN '{done,failed,ready}' WHEN 'failed' THEN '{ready,failed,ready}' END::text[])[choice],
                       state) $$""",
    """CREATE FUNCTION oracle.misstep(state text) RETURNS text IMMUTABLE LANGUAGE sql AS $$
       SELECT CASE state WHEN 'new' THEN 'done' WHEN 'done' THEN 'ready' WHEN 'failed' THEN 'done' ELSE 'new' END $$""",
    """CREATE FUNCTION oracle.state_id(state text) RETURNS int IMMUTABLE LANGUAGE sql AS $$
       SELECT ('{"new": 1, "ready": 2, "busy": 3, "done": 10, "failed": -3}'::jsonb ->> state)::int $$""",
    """CREATE FUNCTION oracle.state_name(id int) RETURNS text IMMUTABLE LANGUAGE sql AS $$
       SELECT CASE id WHEN 1 THEN 'new' WHEN 2 THEN 'ready' WHEN 3 THEN 'busy' WHEN 10 THEN 'done' WHEN -3 THEN 'failed' END $$""",
    "CREATE TABLE oracle.pruned (target text, state text, day date, key text[])",
    # What prune() takes, told by a trigger of our own; it writes values under fixed settings, as text.
    """CREATE FUNCTION oracle.journal() RETURNS trigger LANGUAGE plpgsql
       SET datestyle = 'ISO, YMD' SET timezone = 'UTC' SET intervalstyle = 'postgres' SET bytea_output = 'hex'
       SET extra_float_digits = 1 AS $$
       DECLARE key text[] := '{}'; value text;
       BEGIN
           IF current_setting('oracle.pruning', true) = TG_ARGV[0] THEN
               FOR i IN 1 .. TG_NARGS - 1 LOOP
                   EXECUTE format('SELECT ($1).%I::text', TG_ARGV[i]) INTO value USING OLD;
                   key := key || value;
               END LOOP;
               INSERT INTO oracle.pruned VALUES (TG_ARGV[0], CASE WHEN OLD.state::text ~ '^-?[0-9]+$'
                   THEN oracle.state_name(OLD.state::text::int) ELSE OLD.state::text END, OLD.born::date, key);
           END IF;
           RETURN NULL;
       END $$""",
    """CREATE FUNCTION oracle.prune(target text, older_than interval, batch int) RETURNS bigint LANGUAGE plpgsql AS $$
       DECLARE n bigint;
       BEGIN
           PERFORM set_config('oracle.pruning', target, true);
           n := jobstate.prune(target::regclass, older_than, 'born', batch);
           PERFORM set_config('oracle.pruning', '', true);
           RETURN n;
       END $$""",
)

# A deferred trigger that writes another attached table while the transaction commits.
ECHO = (
    "CREATE SEQUENCE oracle.echo_id",
    """CREATE FUNCTION oracle.echo() RETURNS trigger LANGUAGE plpgsql AS $$
       BEGIN
           INSERT INTO oracle.echo (id, state, g1)
           VALUES (nextval('oracle.echo_id'), CASE TG_OP WHEN 'DELETE' THEN 'ready' ELSE 'new' END, TG_OP);
           RETURN NULL;
       END $$""",
    """CREATE CONSTRAINT TRIGGER echo AFTER INSERT OR DELETE ON oracle.pledge DEFERRABLE INITIALLY DEFERRED
       FOR EACH ROW EXECUTE FUNCTION oracle.echo()""",
)
