"""s3pool rm: keys, trees, versions and unfinished uploads, in batches over all nodes."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain, takewhile

from s3pool.cli.context import Context
from s3pool.cli.parser import FILTERS, section, switch, text_flag
from s3pool.cli.selection import (
    AUTO,
    add_fact_flags,
    add_filter_flags,
    add_glob_flag,
    add_listing_flags,
    add_shard_flags,
    by_processes,
    fact_filter,
    list_mode,
    shard_of,
)
from s3pool.cli.transfers import finish, passes, remove
from s3pool.errors import NotFoundError, UsageError
from s3pool.filters import ANY_FACTS, WHOLE, NameFilter, Names, ObjectFilter, Shard
from s3pool.location import S3Path, compile_glob, glob_prefix, has_glob
from s3pool.model import NO_TIME, SEQUENTIAL, ListMode, ObjectInfo, parse_iso_time
from s3pool.record import dataclass, replace
from s3pool.s3.client import S3Client
from s3pool.s3.list_all import list_objects, list_uploads, list_versions
from s3pool.transfer.context import TransferOptions
from s3pool.transfer.runner import refuse_tree
from s3pool.transfer.tasks import DeleteTask, Problem, Summary
from s3pool.transfer.walk import NO_FILTER

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
    question = f"Delete {'everything that starts with' if args.prefix else 'everything below'} {names}?"
    can_ask = not args.stdin
    ctx.require_consent(names, question, act="deleted", force="deletes without asking", can_ask=can_ask)


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


# -- what the operands mean -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RemovalRules:
    """What belongs to an operand, and what of it goes.

    ``listed`` says that the operands are the names of a list, which a shard divides.
    """

    recursive: bool = False
    raw_prefix: bool = False
    glob: bool = True
    versions: bool = False
    incomplete: bool = False
    names: Names = NO_FILTER
    shard: Shard = WHOLE
    listed: bool = False
    facts: ObjectFilter = ANY_FACTS
    listing: ListMode = SEQUENTIAL


@dataclass(frozen=True, slots=True)
class _Scope:
    """The keys of one operand: those that start with ``prefix`` and that ``holds`` admits."""

    bucket: str
    prefix: str
    base: str
    path: S3Path
    rules: RemovalRules

    @property
    def is_one_key(self) -> bool:
        rules = self.rules
        return not (rules.recursive or rules.raw_prefix or self.is_glob)

    @property
    def is_glob(self) -> bool:
        return self.rules.glob and not self.rules.raw_prefix and has_glob(self.path.key)

    def relative(self, key: str) -> str:
        return key[len(self.base) :] if key.startswith(self.base) else S3Path(self.bucket, key).base_name

    def admits(self, key: str) -> bool:
        rules, relative = self.rules, self.relative(key)
        if not rules.names.admits(relative):
            return False
        # Keys that only a listing can tell are divided by what they are below the operand.
        if not self.is_one_key or (rules.incomplete and self.path.is_prefix) or not self.path.key:
            return rules.shard.holds(relative)
        # A list has names of many directories: what they are below is the bucket.
        return rules.shard.holds(key) if rules.listed else rules.shard.holds_named(relative)


class Removal:
    """The removals of some operands, listed while they are worked on.

    A key that is named exactly is taken as it stands: removing what is not there is fine. A Problem among the operands
    keeps its place.

    Raises UsageError: while they are listed, for an operand that must not be removed.
    """

    def __init__(self, client: S3Client, operands: Iterable[S3Path | Problem], *, rules: RemovalRules) -> None:
        self._client = client
        self._operands = operands
        self._rules = rules

    def __iter__(self) -> Iterator[DeleteTask | Problem]:
        for operand in self._operands:
            if isinstance(operand, Problem):
                yield operand
                continue
            try:
                yield from self._expand(scope_of(operand, self._rules))
            except NotFoundError as exc:
                yield Problem(operand.text, exc, op="delete")

    def _expand(self, scope: _Scope) -> Iterator[DeleteTask | Problem]:
        key = scope.path.key
        if self._rules.incomplete:
            yield from self._uploads(scope)
        elif self._rules.versions:
            yield from self._versions(scope)
        elif not scope.is_one_key:
            yield from self._objects(scope)
        elif scope.admits(key) and not self._rules.facts.active:
            yield DeleteTask(scope.bucket, key, named=not self._rules.listed)
        elif scope.admits(key):
            yield from self._admitted(scope, self._head(scope.path, may_be_tree=False))

    def _objects(self, scope: _Scope) -> Iterator[DeleteTask]:
        rules, (start, until) = self._rules, self._rules.shard.bounds(scope.base)
        if rules.recursive and not scope.is_glob and not rules.raw_prefix and not scope.path.is_prefix:
            yield from self._admitted(scope, self._head(scope.path))
        listing = partial(list_objects, self._client, scope.bucket, mode=rules.listing)
        yield from self._admitted(scope, listing(prefix=scope.prefix, start_after=start, until=until))

    def _head(self, path: S3Path, *, may_be_tree: bool = True) -> Iterator[ObjectInfo]:
        try:
            head = self._client.head_object(path.bucket, path.key)
        except NotFoundError:
            if not (may_be_tree or self._rules.listed):
                refuse_tree(path, self._client)
            return
        yield ObjectInfo(path.key, head.size, head.last_modified)

    def _versions(self, scope: _Scope) -> Iterator[DeleteTask]:
        is_missing = True
        for task in self._admitted(scope, self._listed_versions(scope)):
            is_missing = False
            yield task
        if is_missing and scope.is_one_key and not self._rules.listed:
            refuse_tree(scope.path, self._client)

    def _listed_versions(self, scope: _Scope) -> Iterator[ObjectInfo]:
        is_range = self._rules.shard.range is not None and not scope.is_one_key
        start, until = self._rules.shard.bounds(scope.base) if is_range else ("", None)
        prefix = scope.prefix
        if not (scope.is_glob or self._rules.raw_prefix):
            key = scope.path.key
            if not is_range:
                prefix = key  # a tree's own key stands before the tree in the same listing
            elif key and not scope.path.is_prefix:
                versions = list_versions(self._client, scope.bucket, prefix=key)
                yield from takewhile(lambda info: info.key == key, versions)
        yield from list_versions(
            self._client, scope.bucket, prefix=prefix, start_after=start, until=until, mode=self._rules.listing
        )

    def _uploads(self, scope: _Scope) -> Iterator[DeleteTask]:
        facts = self._rules.facts
        prefix = scope.prefix if scope.is_glob or self._rules.raw_prefix else scope.path.key
        for upload in list_uploads(self._client, scope.bucket, prefix=prefix):
            is_of_age = not facts.active or facts.admits(0, parse_iso_time(upload.initiated or NO_TIME))
            if is_of_age and _belongs(scope, upload.key) and scope.admits(upload.key):
                yield DeleteTask(scope.bucket, upload.key, upload_id=upload.upload_id)

    def _admitted(self, scope: _Scope, infos: Iterable[ObjectInfo]) -> Iterator[DeleteTask]:
        facts = self._rules.facts
        for info in infos:
            is_meant = _belongs(scope, info.key) and scope.admits(info.key)
            if is_meant and facts.admits_object(info):
                yield DeleteTask(scope.bucket, info.key, info.version_id, size=info.size)


def _belongs(scope: _Scope, key: str) -> bool:
    rules, own = scope.rules, scope.path.key
    if scope.is_glob:
        return compile_glob(own)(key) or (rules.recursive and compile_glob(f"{own.rstrip('/')}/*")(key))
    if rules.raw_prefix or not own or key == own:
        return True
    # A directory's unfinished uploads are nobody's data: its name is enough.
    is_tree = rules.recursive or (rules.incomplete and scope.path.is_prefix)
    return is_tree and key.startswith(scope.path.tree_prefix)


def scope_of(path: S3Path, rules: RemovalRules) -> _Scope:
    """Read one operand. Raises UsageError: it names no bucket, or a whole bucket without -r."""
    key = path.key
    if not path.bucket:
        raise UsageError("rm needs a bucket; write s3/BUCKET/KEY")
    if not key and not (rules.recursive or rules.raw_prefix or rules.incomplete):
        raise UsageError(f"{path.text} is a bucket: -r removes what is in it, rb the bucket")
    start = key if rules.raw_prefix else glob_prefix(key) if rules.glob and has_glob(key) else None
    if start is not None:
        return _Scope(path.bucket, start, start[: start.rfind("/") + 1], path, rules)
    base = path.tree_prefix if rules.recursive else key[: len(key) - len(path.base_name)]
    return _Scope(path.bucket, path.tree_prefix, base, path, rules)
