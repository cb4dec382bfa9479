"""s3pool head: the first lines or bytes of objects, and no more of them than that."""

from __future__ import annotations

import argparse

from s3pool.cli.commands.cat import add_reading_flags, read_each
from s3pool.cli.context import Context
from s3pool.cli.parser import natural_int, size_in_bytes
from s3pool.transfer.object_reader import ObjectReader

EXAMPLES = ("head s3/logs/app.log", "head -n 3 's3/logs/*.csv'", "head -c 1K s3/images/disk.raw | xxd")

LINES = 10  # as head(1)
NEWLINE = b"\n"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the operands and flags of head."""
    amount = parser.add_mutually_exclusive_group()
    amount.add_argument("-n", "--lines", type=natural_int, default=LINES, metavar="N", help="so many lines (10)")
    amount.add_argument("-c", "--bytes", type=size_in_bytes, metavar="BYTES", help="so many bytes instead: 1K is 1024")
    add_reading_flags(parser)


def run(args: argparse.Namespace, ctx: Context) -> int:
    """Show the beginning of each object; one that is missing is reported and the rest goes on."""
    is_bytes = args.bytes is not None

    def show(reader: ObjectReader) -> None:
        left: int = args.bytes if is_bytes else args.lines
        pieces: list[bytes] = []

        def take(block: memoryview) -> bool:
            nonlocal left
            piece, left = _beginning(block, left, is_bytes=is_bytes)
            if ctx.out.json:
                pieces.append(bytes(piece))
            else:
                ctx.out.raw(piece)
            return left > 0

        reader.copy_to(take)
        if ctx.out.json:
            content = b"".join(pieces)
            text = content.decode("utf-8", "surrogateescape")
            ctx.out.record({"type": "head", "url": str(reader.source), "bytes": len(content), "content": text})

    return read_each(ctx, show)


def _beginning(block: memoryview, left: int, *, is_bytes: bool) -> tuple[memoryview, int]:
    """Return what is wanted of the next bytes, and how many bytes or lines are wanted after them."""
    if is_bytes:
        return block[:left], left - len(block[:left])
    content, end = bytes(block), 0
    while left and (place := content.find(NEWLINE, end)) >= 0:
        end, left = place + 1, left - 1
    return (block if left else block[:end]), left
