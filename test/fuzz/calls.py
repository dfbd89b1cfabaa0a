"""Calls of the extension's functions, made from its catalogue."""

import re
from dataclasses import dataclass

CATALOGUE = """
    SELECT p.proname, p.prokind::text, t.typname IN ('trigger', 'event_trigger'),
           coalesce((p.proargnames)[:p.pronargs], '{}'), ARRAY(SELECT format_type(a, NULL) FROM unnest(p.proargtypes) a),
           p.pronargdefaults, CASE WHEN p.prolang <> 13 THEN p.prosrc ELSE '' END
      FROM pg_proc p
      JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
      JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND e.extname = 'jobstate'
      JOIN pg_type t ON t.oid = p.prorettype
     ORDER BY p.oid::regprocedure::text"""

# What is in the database, by the name and type of its columns.
KNOWN = """
    SELECT a.attname, format_type(a.atttypid, NULL), c.oid::regclass::text
      FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
     WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND a.attnum > 0 AND NOT a.attisdropped
       AND c.relnamespace IN (SELECT oid FROM pg_namespace WHERE nspname IN ('jobstate', 'app'))
       AND format_type(a.atttypid, NULL) IN ('text', 'name', 'smallint', 'integer', 'bigint', 'uuid')
       AND c.relname !~ '^(log_|base_)' AND NOT c.relname = 'secret'"""

# Arguments that are called otherwise than the column that has their values.
ALSO = {
    ("id", "bigint"): ("ids", "upload_id", "upload_ids", "apply_id", "operation_id", "task_id", "positions"),
    ("name", "text"): ("processor", "machine", "from_state", "to_state", "rule_set", "names", "deployment"),
    ("attname", "name"): (),
}

TIMINGS = tuple(f"{when} {what} ON %s FOR EACH {each}" for when in ("BEFORE", "AFTER") for each in ("ROW", "STATEMENT")
                for what in ("INSERT", "UPDATE", "DELETE", "TRUNCATE", "INSERT OR UPDATE OR DELETE"))

WRITES = (
    "INSERT INTO {t} (id, state) VALUES (1001, 'new')", "INSERT INTO {t} (id) VALUES (1002)",
    "UPDATE {t} SET state = state", "UPDATE {t} SET state = 'ready' WHERE id = 1", "DELETE FROM {t} WHERE id = 2",
    "TRUNCATE {t}", "UPDATE {t} SET id = id + 100000", "INSERT INTO {t} SELECT * FROM {t} LIMIT 1",
)


@dataclass
class Function:
    name: str
    kind: str
    is_trigger: bool
    names: list
    types: list
    defaults: int
    words: list


def functions(db):
    for name, kind, is_trigger, names, types, defaults, source in db.execute(CATALOGUE).fetchall():
        words = sorted(set(re.findall(r"'([A-Za-z_ *]{1,20})'", source)))
        yield Function(name, kind, is_trigger, names + [""] * (len(types) - len(names)), types, defaults, words)


def known(db):
    """Some values of each column name, of all tables."""
    found = {}
    for name, type, relation in db.execute(KNOWN).fetchall():
        column = '"' + name.replace('"', '""') + '"'
        rows = db.execute(f"SELECT DISTINCT {column}::text FROM {relation} WHERE {column} IS NOT NULL ORDER BY 1 LIMIT 12").fetchall()
        found.setdefault((name, type), []).extend(row[0] for row in rows if len(row[0]) < 100)
    for source, others in ALSO.items():
        for other in others:
            found.setdefault((other, source[1]), []).extend(found.get(source, []))
    return found


def call(random, values, function):
    """A statement that calls the function, with or without its last arguments."""
    given = len(function.types) - random.randint(0, function.defaults)
    arguments = ", ".join(values.value(name, type, function.words)
                          for name, type in zip(function.names[:given], function.types))
    if function.kind == "p":
        return f"CALL jobstate.{function.name}({arguments})"
    if random.random() < 0.5:
        return f"SELECT * FROM jobstate.{function.name}({arguments})"
    return f"SELECT jobstate.{function.name}({arguments})"


def misuse(random, values, triggers, relations):
    """A trigger function where it does not belong, and what fires it."""
    function = random.choice(triggers).name
    table = random.choice(relations)
    yield f"CREATE TRIGGER {random.choice(('aa', 'jobstate_watch', 'zz'))} {random.choice(TIMINGS) % table} " \
          f"EXECUTE FUNCTION jobstate.{function}({random.choice(('', '1', quoted_words(random)))})"
    for _ in range(random.randint(1, 3)):
        yield random.choice(WRITES).format(t=random.choice((table, random.choice(relations))))


def quoted_words(random):
    return "'" + random.choice(("", "m", "state", "app.plain", "x" * 100)) + "'"
