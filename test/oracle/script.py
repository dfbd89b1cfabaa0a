"""What sessions do: statements, in savepoint blocks, in transactions. Made from a seed alone, before anything runs."""

from dataclasses import dataclass, field

# A statement that raises one of these came too late or stands in somebody's way, as on a bare table.
LATE = frozenset({"40001", "40P01", "55P03"})

# Beside somebody who changes tables: what refers to a partition or trigger that is away at the moment, too.
UNDER_DDL = LATE | {"23503", "23505", "23514", "42704", "55000", "55006"}


@dataclass
class Statement:
    sql: str
    may: frozenset = frozenset()  # SQLSTATEs that are no failure
    must: str = ""  # the SQLSTATE it raises if it finds a row
    copy: str = None  # the data of a COPY
    finds: bool = False  # each row that it returns is a difference
    of: str = ""  # the table that the difference is of

    def text(self):
        return self.sql + ";" + (f"\n{self.copy}\\." if self.copy is not None else "")


@dataclass
class Block:
    """A savepoint, what is done under it, and whether that is kept."""
    body: list
    keep: bool = True


@dataclass
class Transaction:
    begin: str
    body: list
    end: str = "COMMIT"  # COMMIT, ROLLBACK, or PREPARE
    prepared: str = "COMMIT"  # what becomes of a prepared one
    may: frozenset = frozenset()  # SQLSTATEs that the end may raise


@dataclass
class Script:
    settings: list = field(default_factory=list)
    steps: list = field(default_factory=list)  # transactions, and statements that are their own


def walk(node, depth=1):
    """The node as lines of SQL, as if nothing were to fail."""
    if isinstance(node, Statement):
        yield node.text()
    elif isinstance(node, Block):
        yield f"SAVEPOINT s{depth};"
        for part in node.body:
            yield from walk(part, depth + 1)
        yield f"RELEASE s{depth};" if node.keep else f"ROLLBACK TO s{depth};"
    else:
        yield node.begin + ";"
        for part in node.body:
            yield from walk(part)
        yield f"PREPARE TRANSACTION 'oracle'; {node.prepared} PREPARED 'oracle';" if node.end == "PREPARE" else node.end + ";"
