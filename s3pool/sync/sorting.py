"""Names that a server lists without order, put in order on disk: memory stays as it is."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing

from s3pool.errors import JournalError
from s3pool.location import name_bytes
from s3pool.sync.blocks import Block

SCHEMA = "CREATE TABLE names (name BLOB PRIMARY KEY, size INTEGER, etag TEXT, modified TEXT) WITHOUT ROWID"
NAMES_PER_BLOCK = 1000


def sorted_blocks(blocks: Iterable[Block]) -> Iterator[Block]:
    """Yield the names of a side in S3 in their order, each once, after all of them were read.

    Raises:
        JournalError: they cannot be kept; SQLITE_TMPDIR names another place.
    """
    try:
        # Without a name it is a file that nobody else sees, gone with its connection: also in another thread.
        with closing(sqlite3.connect("", isolation_level=None, check_same_thread=False)) as database:
            database.execute(SCHEMA)
            for block in blocks:
                names = map(name_bytes, block.names)
                rows = zip(names, block.sizes, block.etags, block.modified, strict=True)
                database.execute("BEGIN")
                database.executemany("INSERT OR REPLACE INTO names VALUES (?, ?, ?, ?)", rows)
                database.execute("COMMIT")
            found = database.execute("SELECT * FROM names ORDER BY name")
            while rows_in_order := found.fetchmany(NAMES_PER_BLOCK):
                raw, sizes, etags, modified = zip(*rows_in_order, strict=True)
                names_in_order = [name.decode("utf-8", "surrogateescape") for name in raw]
                yield Block(names_in_order, sizes, etags=etags, modified=modified)
    except sqlite3.Error as exc:
        raise JournalError(f"cannot sort the names of a listing ({exc}); is there room in /var/tmp?") from exc
