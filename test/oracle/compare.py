"""The oracle: what must be equal, asked in SQL that knows nothing of how jobstate counts.

A group key in JSON is cast back to its columns' types, so that the types decide about equality.
"""

from operations import group_key
from schema import literal
from script import Statement


def key_columns(table, source):
    for number, column in enumerate(table.groups, 1):
        yield f"({source.format(column=column.name, number=number)})::{column.kind.type} {column.kind.collate} AS k{number}"


def names(table, last):
    return ", ".join([f"k{number}" for number in range(1, len(table.groups) + 1)] + last)


def select(parts):
    return ", ".join(parts)


def from_json(table):
    return list(key_columns(table, "group_key ->> '{column}'"))


def from_table(table):
    return list(key_columns(table, "{column}"))


def differences(table, left, right, last):
    """The groups of two queries (key, ..., n, rows) that differ, or that one has twice."""
    keys = names(table, last)
    shown = ", ".join(f"k{number}::text" for number in range(1, len(table.groups) + 1))
    return (f"SELECT ARRAY[{shown}]::text[] AS key, {', '.join(last)}, sum(a) AS counted, sum(b) AS actual, sum(r) AS rows"
            f" FROM ({left} UNION ALL {right}) both_sides GROUP BY {keys} HAVING sum(a) <> sum(b) OR sum(r) > 1")


def counts(table, group_key=None, condition="true"):
    """counts() beside the table's own GROUP BY, in one statement and so in one snapshot."""
    argument = f", {group_key}" if group_key else ""
    left = f"SELECT {select(from_json(table) + ['state', 'n AS a', '0 AS b', '1 AS r'])}" \
           f" FROM jobstate.counts('{table.name}'::regclass{argument})"
    right = f"SELECT {select(from_table(table) + [table.state_name('state') + ' AS state', '0', 'count(*)', '0'])}" \
            f" FROM {table.name} WHERE {condition} GROUP BY {names(table, ['state'])}"
    # GROUP BY by position: the table has columns named like what is selected
    right = right[:right.rindex(" GROUP BY ")] + " GROUP BY " + ", ".join(str(i) for i in range(1, len(table.groups) + 2))
    return Statement(differences(table, left, right, ["state"]), finds=True, of=table.name)


def rolled_up(table):
    """The rollup beside the journal of what prune() took."""
    left = f"SELECT {select(from_json(table) + ['oracle.state_name(state_id) AS state', 'day', 'n AS a', '0 AS b', '0 AS r'])}" \
           f" FROM jobstate.rollup WHERE target = '{table.name}'::regclass"
    right = f"SELECT {select(list(key_columns(table, 'key[{number}]')) + ['state', 'day', '0', '1', '0'])}" \
            f" FROM oracle.pruned WHERE target = '{table.name}'"
    return Statement(differences(table, left, right, ["state", "day"]), finds=True, of=table.name)


def totals(table):
    """totals() beside the table and the journal, both live and rolled up."""
    left = f"SELECT {select(from_json(table) + ['state', 'live + 1000000 * rolled_up AS a', '0 AS b', '0 AS r'])}" \
           f" FROM jobstate.totals('{table.name}'::regclass)"
    live = f"SELECT {select(from_table(table) + [table.state_name('state') + ' AS state', '0', '1', '0'])} FROM {table.name}"
    gone = f"SELECT {select(list(key_columns(table, 'key[{number}]')) + ['state', '0', '1000000', '0'])}" \
           f" FROM oracle.pruned WHERE target = '{table.name}'"
    return Statement(differences(table, left, f"{live} UNION ALL {gone}", ["state"]), finds=True, of=table.name)


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
