"""s3pool rm: keys, trees, versions and unfinished uploads, in batches over all nodes."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from itertools import chain

from s3pool.cli.context import Context
from s3pool.cli.outcomes import finish
from s3pool.cli.parser import FILTERS, section, switch, text_flag
from s3pool.cli.selection import (
    AUTO,
    add_fact_flags,
    add_glob_flag,
    add_listing_flags,
    add_shard_flags,
    by_processes,
    fact_filter,
    list_mode,
    shard_of,
)
from s3pool.cli.transfers import add_filter_flags, passes, remove
from s3pool.errors import RefusedError, UsageError
from s3pool.filters import NameFilter
from s3pool.location import S3Path
from s3pool.record import replace
from s3pool.transfer.context import TransferOptions
from s3pool.transfer.delete import Removal, RemovalRules, scope_of
from s3pool.transfer.tasks import DeleteTask, Problem, Summary

EXAMPLES = ("rm s3/backup/a", "rm -r --dry-run s3/backup/photos", "rm -r --older-than 90d s3/backup/logs")

READ_BLOCK_BYTES = 1 << 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the operands and flags of rm."""
    parser.add_argument("paths", nargs="*", metavar="PATH", help="s3/BUCKET/KEY or a glob")
    switch(parser, "-r", "--recursive", help="everything below; asks on a terminal")
    switch(parser, "-f", "--force", "-y", "--yes", help="do not ask")
    add_filter_flags(parser)
    add_fact_flags(section(parser, FILTERS))
    add_shard_flags(parser)
    switch(parser, "--versions", help="every version and delete marker")
    text_flag(parser, "--version-id", "ID", help="one version of one key, or a delete marker")
    switch(parser, "--bypass-governance", help="also versions that a retention in governance mode holds")
    switch(parser, "--incomplete", help="unfinished uploads instead of objects")
    switch(parser, "--stdin", help="more paths from standard input, one a line; bad ones are told by number")
    switch(parser, "-0", "--null", help="paths on standard input end in NUL")
    switch(parser, "--prefix", help="a path is a raw prefix: p means p2 as well; asks")
    add_glob_flag(parser)
    add_listing_flags(parser, jobs=AUTO)


def run(args: argparse.Namespace, ctx: Context) -> int:
    """Delete what the operands select; a failure is printed, and the rest goes on."""
    _check(args)
    rules = RemovalRules(
        recursive=args.recursive,
        raw_prefix=args.prefix,
        glob=not args.no_glob,
        versions=args.versions,
        incomplete=args.incomplete,
        names=NameFilter(args.name_rules),
        facts=fact_filter(args, ctx),
        listing=list_mode(args, ctx),
    )
    if args.version_id:
        path = ctx.s3_object(args.paths[0])
        return _remove([DeleteTask(path.bucket, path.key, args.version_id)], ctx)
    paths = [ctx.s3(text) for text in args.paths]
    for path in paths:
        scope_of(path, rules)  # what must not be removed is told before anything is asked
    by_parts = by_processes(args, ctx)
    rules = replace(rules, shard=shard_of(args, ctx))
    _make_sure(paths, args, ctx)
    if by_parts:
        from s3pool.cli.processes import transfer_by_parts, tree_of

        tree = None
        if paths and not args.stdin:
            raw = S3Path(paths[0].bucket, paths[0].key[: paths[0].key.rfind("/") + 1])
            tree = raw if args.prefix else tree_of(paths[0], glob=not args.no_glob)
        return transfer_by_parts(ctx, tree, verb="deleted", stdin=ctx.stdin.read() if args.stdin else None)
    operands = Removal(ctx.client, paths, rules=rules)
    if not args.stdin:
        return _remove(operands, ctx)
    rules = replace(rules, glob=False, listed=True)
    return _remove(chain(operands, Removal(ctx.client, _iter_listed(args, ctx, rules), rules=rules)), ctx)


def _iter_listed(args: argparse.Namespace, ctx: Context, rules: RemovalRules) -> Iterator[S3Path | Problem]:
    """Yield the paths on standard input; a bad line is reported by its number, and the rest goes on."""
    for number, name in enumerate(iter_names(ctx, null=args.null), 1):
        if not name:
            continue
        try:
            path = ctx.s3(name)
            scope_of(path, rules)
        except UsageError as exc:
            yield Problem(name, UsageError(f"line {number} of standard input: {exc.message}"), op="delete")
        else:
            yield path


def _check(args: argparse.Namespace) -> None:
    if not args.paths and not args.stdin:
        raise UsageError("rm needs a path, or --stdin")
    if args.versions and args.incomplete:
        raise UsageError("--versions and --incomplete exclude each other")
    many = (args.recursive, args.prefix, args.stdin, args.versions, args.incomplete, args.name_rules)
    others = (args.shard, args.processes > 1, args.older_than, args.newer_than)
    if args.version_id and (len(args.paths) != 1 or any(many) or any(others)):
        raise UsageError("--version-id takes one version of one key: s3/BUCKET/KEY, without flags that choose")
    if args.incomplete and not (args.larger is None and args.smaller is None):
        raise UsageError("--larger and --smaller are for objects: unfinished uploads have no size")
    if args.prefix and args.recursive:
        raise UsageError("--prefix and -r exclude each other: a raw prefix is recursive already")
    if args.null and not args.stdin:
        raise UsageError("-0 goes with --stdin")


def _make_sure(paths: list[S3Path], args: argparse.Namespace, ctx: Context) -> None:
    if args.force or ctx.dry_run or ctx.part is not None or not (args.recursive or args.prefix):
        return
    names = ", ".join(path.text for path in paths) or "what standard input names"
    if args.stdin or not ctx.is_tty:
        raise UsageError(f"{names}: nothing was deleted, for nobody can be asked; --force deletes without asking")
    what = "everything that starts with" if args.prefix else "everything below"
    if not ctx.confirm(f"Delete {what} {names}?"):
        raise RefusedError(f"{names}: nothing was deleted: the answer was no")


def _remove(tasks: Iterable[DeleteTask | Problem], ctx: Context) -> int:
    summary = Summary()
    options = TransferOptions(bypass_governance=ctx.args.bypass_governance)
    for _ in passes(summary, ctx.client, ctx):
        remove(tasks, ctx, summary=summary, options=options)
    return finish(summary, ctx, verb="deleted")


def iter_names(ctx: Context, *, null: bool) -> Iterator[str]:
    """Yield the paths on standard input, exactly as they stand, empty ones too."""
    end = b"\0" if null else b"\n"
    rest = b""
    while block := ctx.stdin.read1(READ_BLOCK_BYTES):  # type: ignore[attr-defined]
        *names, rest = (rest + block).split(end)
        yield from (name.decode("utf-8", "surrogateescape") for name in names)
    if rest:
        yield rest.decode("utf-8", "surrogateescape")
