"""The oracle: what must be equal, asked in SQL that knows nothing of how jobstate counts.

A group key in JSON is cast back to its columns' types, so that the types decide about equality.
"""

from operations import group_key
from schema import literal
from script import Statement


def keys(table, source):
    """The group columns, k1 and so on, out of a source that is told by a column's name or number."""
    return [f"({source.format(name=column.name, number=number)})::{column.kind.type} {column.kind.collate} AS k{number}"
            for number, column in enumerate(table.groups, 1)]


def select(parts, rest):
    return f"SELECT {', '.join(parts)} {rest}"


def differences(table, by, counted, actual, most=1):
    """The groups in which two queries (k1, ..., what they are by, n) do not tell the same, or that the first has too often."""
    group = ", ".join([f"k{number}" for number in range(1, len(table.groups) + 1)] + by)
    shown = ", ".join(f"k{number}::text" for number in range(1, len(table.groups) + 1))
    sql = f"SELECT ARRAY[{shown}]::text[] AS key, {', '.join(by)}, sum(n) FILTER (WHERE counted) AS counted," \
          f" sum(n) FILTER (WHERE NOT counted) AS actual, count(*) FILTER (WHERE counted) AS rows" \
          f" FROM (SELECT *, true AS counted FROM ({counted}) c UNION ALL SELECT *, false FROM ({actual}) a) both_sides" \
          f" GROUP BY {group} HAVING sum(CASE WHEN counted THEN n ELSE -n END) <> 0 OR count(*) FILTER (WHERE counted) > {most}"
    return Statement(sql, finds=True, of=table.name)


def counts(table, group_key=None, condition="true"):
    """counts() beside the table's own GROUP BY, in one statement and so in one snapshot."""
    argument = f", {group_key}" if group_key else ""
    counted = select(keys(table, "group_key ->> '{name}'") + ["state", "n"], f"FROM jobstate.counts('{table.name}'::regclass{argument})")
    by_position = ", ".join(str(i) for i in range(1, len(table.groups) + 2))
    actual = select(keys(table, "{name}") + [table.state_name("state") + " AS state", "count(*)"],
                    f"FROM {table.name} WHERE {condition} GROUP BY {by_position}")
    return differences(table, ["state"], counted, actual)


def journal(table, by, n):
    """What prune() took, as our own trigger saw it."""
    return select(keys(table, "key[{number}]") + by + [n], f"FROM oracle.pruned WHERE target = '{table.name}'")


# Equal keys in different spellings may be in the rollup more than once, and in totals().
ANY = 10 ** 9


def rolled_up(table):
    """The rollup beside the journal."""
    counted = select(keys(table, "group_key ->> '{name}'") + ["oracle.state_name(state_id) AS state", "day", "n"],
                     f"FROM jobstate.rollup WHERE target = '{table.name}'::regclass")
    return differences(table, ["state", "day"], counted, journal(table, ["state", "day"], "1"), ANY)


def totals(table):
    """totals() beside the table and the journal; what is rolled up counts millions, so that one number tells both."""
    counted = select(keys(table, "group_key ->> '{name}'") + ["state", "live + 1000000 * rolled_up AS n"],
                     f"FROM jobstate.totals('{table.name}'::regclass)")
    live = select(keys(table, "{name}") + [table.state_name("state") + " AS state", "1"], f"FROM {table.name}")
    return differences(table, ["state"], counted, f"{live} UNION ALL {journal(table, ['state'], '1000000')}")


def verify(table):
    return Statement(f"SELECT * FROM jobstate.verify('{table.name}'::regclass)", finds=True, of=table.name)


def one_group(operations, table):
    """counts() of one group, or of those that share a part of the key, asked for in some spelling."""
    if not table.groups:
        return counts(table)
    wanted = operations.random.sample(table.groups, operations.random.choice((1, len(table.groups))))
    pairs = [(column, operations.spelling(column)) for column in wanted]
    return counts(table, group_key(pairs),
                  " AND ".join(f"{column.name} IS NOT DISTINCT FROM {literal(column, text)}" for column, text in pairs))


# Was a file of the table exchanged after the snapshot? Then a plain SELECT is wrong, because TRUNCATE and rewrites
# are not subject to snapshots, and nothing can be compared.
REWRITTEN = """SELECT count(*) FROM pg_partition_tree('{0}') p JOIN pg_class c ON c.oid = p.relid
               WHERE c.relfilenode <> coalesce(pg_relation_filenode(c.oid), 0)"""
