"""s3pool undo: keys, prefixes and buckets with versions, back to how they were."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import attrgetter

from s3pool.cli import transfers
from s3pool.cli.context import Context
from s3pool.cli.parser import switch, text_flag
from s3pool.cli.selection import AUTO, add_filter_flags, add_listing_flags, list_mode, moment_of
from s3pool.errors import NotFoundError, RefusedError, UsageError
from s3pool.filters import NameFilter
from s3pool.location import AFTER_SLASH, S3Path
from s3pool.model import ObjectAttributes, ObjectInfo, format_iso_time
from s3pool.record import dataclass
from s3pool.s3.client import S3Client
from s3pool.s3.list_all import list_versions
from s3pool.s3.requests import NO_ATTRIBUTES
from s3pool.transfer.context import TransferOptions
from s3pool.transfer.metadata import merge_for_copy
from s3pool.transfer.runner import refuse_tree
from s3pool.transfer.runner import run as run_tasks
from s3pool.transfer.tasks import CopyTask, DeleteTask, Problem, Summary, copy_of

EXAMPLES = (
    "undo --since 1h s3/etc/app.conf",
    "undo --at 2026-11-30T08:00:00Z --dry-run s3/photos/",
    "undo --since 2h --keep-history --force s3/photos/2026/",
)

SUSPENDED = "Suspended"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the operands and flags of undo."""
    parser.add_argument("paths", nargs="+", metavar="PATH", help="s3/BUCKET/KEY, s3/BUCKET/PREFIX/ or s3/BUCKET")
    moment = parser.add_mutually_exclusive_group(required=True)
    text_flag(moment, "--since", "AGE", help="undo what happened since: 1h, 2d")
    text_flag(moment, "--at", "TIME", help="back to this date")
    switch(parser, "-r", "--recursive", help="also everything below a key's name and a slash")
    switch(parser, "--keep-history", help="remove nothing: copy the version of then on top of the later ones")
    switch(parser, "-f", "--force", "-y", "--yes", help="do not ask")
    switch(parser, "--bypass-governance", help="also versions that a retention in governance mode holds")
    add_filter_flags(parser)
    add_listing_flags(parser, jobs=AUTO)


def run(args: argparse.Namespace, ctx: Context) -> int:
    """Bring each operand back; one that fails is reported and the rest goes on."""
    paths = [ctx.s3(text) for text in args.paths]
    if any(not path.bucket for path in paths):
        raise UsageError("undo needs a bucket: s3/BUCKET, s3/BUCKET/PREFIX/ or s3/BUCKET/KEY")
    at = moment_of(args.since or args.at, ctx)
    states = {path.bucket: _versioning(path, args, ctx) for path in paths}
    _make_sure(paths, at, args, ctx)
    # An age means another moment in the next run: who goes on after an interrupt needs this one.
    ctx.out.remark(f"back to {format_iso_time(at)}", at=format_iso_time(at))
    return ctx.for_each(paths, lambda path: _undo(path, at, states[path.bucket], args, ctx))


def _versioning(path: S3Path, args: argparse.Namespace, ctx: Context) -> str:
    state = ctx.client.get_versioning(path.bucket)
    if not state:
        raise UsageError(f"s3/{path.bucket} keeps no versions: there is nothing to go back to")
    if args.keep_history and state == SUSPENDED:
        raise UsageError(
            f"versioning of s3/{path.bucket} is suspended: a copy would replace a version; enable it first"
        )
    return state


def _make_sure(paths: list[S3Path], at: float, args: argparse.Namespace, ctx: Context) -> None:
    trees = [path.text for path in paths if path.is_prefix or args.recursive]
    if args.force or ctx.dry_run or not trees:
        return
    names = ", ".join(trees)
    what = "and remove no version" if args.keep_history else "and remove the versions since then"
    question = f"Bring everything below {names} back to {format_iso_time(at)}, {what}?"
    ctx.require_consent(names, question, act="changed", force="does not ask")


def _undo(path: S3Path, at: float, state: str, args: argparse.Namespace, ctx: Context) -> int:
    undo = Undo(path.bucket, at, ctx.client, keeps_history=args.keep_history, is_suspended=state == SUSPENDED)
    tasks = undo.tasks(_versions(path, args, ctx))
    options = TransferOptions(bypass_governance=args.bypass_governance)
    summary = Summary()
    if args.keep_history:
        with transfers.running(ctx, options, summary, verb="copied") as (context, tell):
            watched = transfers.watch_health(tasks, ctx)
            run_tasks(watched, context, on_outcome=tell, rehearse=ctx.dry_run, summary=summary)
    else:
        removals = (task for task in tasks if not isinstance(task, CopyTask))
        transfers.remove(removals, ctx, summary=summary, options=options)
    if summary.stopped_by is None and not (path.is_prefix or args.recursive or undo.changed or undo.unchanged):
        refuse_tree(path, ctx.client, act="brings them back")
        raise NotFoundError(404, "NoSuchKey", detail="it has no version", resource=path.text, op="ListObjectVersions")
    counts = {"changed": undo.changed, "unchanged": undo.unchanged}
    text = f"{undo.changed} keys changed, {undo.unchanged} were as they had been"
    return transfers.finish(summary, ctx, verb="copied" if args.keep_history else "deleted", before=text, fields=counts)


def _versions(path: S3Path, args: argparse.Namespace, ctx: Context) -> Iterator[ObjectInfo]:
    names = NameFilter(args.name_rules)
    is_tree = path.is_prefix or args.recursive
    until = None if path.is_prefix else path.key + (AFTER_SLASH if is_tree else "")
    mode = list_mode(args, ctx, ordered=True)
    for info in list_versions(ctx.client, path.bucket, prefix=path.key, until=until, mode=mode):
        is_meant = info.key == path.key or (is_tree and info.key.startswith(path.tree_prefix))
        if is_meant and names.admits(path.relative(info.key)):
            yield info


NULL_VERSION = "null"

Step = DeleteTask | CopyTask | Problem


@dataclass(slots=True)
class Undo:
    """The tasks that bring keys back to a moment; ``changed`` and ``unchanged`` count keys.

    ``infos`` are all versions, those of a key together and the newest first. Of a key whose version
    of then is listed, and only of such a key, the later versions are removed. With ``keeps_history``
    nothing is removed: that version is copied on top, or a delete marker is put there. A key that
    was not there at all gets a delete marker in any case, and all its versions stay.
    """

    bucket: str
    at: float
    client: S3Client
    keeps_history: bool = False
    is_suspended: bool = False  # the bucket's versioning: then a new version or marker replaces the null version
    changed: int = 0
    unchanged: int = 0

    def tasks(self, infos: Iterable[ObjectInfo]) -> Iterator[Step]:
        """Yield the tasks, key by key, while the versions are listed."""
        for key, versions in groupby(infos, attrgetter("key")):
            later, then = self._split(versions)
            newest = later[0] if later else then
            if newest is not None and not newest.is_latest:  # versitygw names a page's delete markers apart
                steps: list[Step] = [self._refusal(key, "the server does not list its newest version first")]
            else:
                steps = list(self._steps(key, later, then)) if later else []
            self.changed += bool(steps)
            self.unchanged += not steps
            yield from steps

    def _split(self, versions: Iterable[ObjectInfo]) -> tuple[list[ObjectInfo], ObjectInfo | None]:
        later: list[ObjectInfo] = []
        for info in versions:
            if info.mtime <= self.at:
                return later, info
            later.append(info)
        return later, None

    def _steps(self, key: str, later: list[ObjectInfo], then: ObjectInfo | None) -> Iterator[Step]:
        if any(math.isnan(info.mtime) for info in later):
            yield self._refusal(key, "the server tells no time of one of its versions")
        elif then is None or (self.keeps_history and then.is_delete_marker):
            yield from self._hide(key, later)
        elif self.keeps_history:
            yield from self._bring_on_top(key, later[0], then)
        else:
            for info in later:
                yield DeleteTask(self.bucket, key, info.version_id, size=info.size)

    def _hide(self, key: str, later: list[ObjectInfo]) -> Iterator[Step]:
        if later[0].is_delete_marker:
            return
        if self.is_suspended and any(info.version_id == NULL_VERSION for info in later):
            yield self._refusal(
                key, "it was not there then, and with versioning suspended a delete would lose its bytes"
            )
        else:
            yield DeleteTask(self.bucket, key)

    def _bring_on_top(self, key: str, newest: ObjectInfo, then: ObjectInfo) -> Iterator[Step]:
        has_its_bytes = not newest.is_delete_marker and (newest.size, newest.etag) == (then.size, then.etag)
        if not has_its_bytes or self._kept_of(newest) != self._kept_of(then):
            yield copy_of(self.bucket, then, S3Path(self.bucket, key))

    def _kept_of(self, info: ObjectInfo) -> ObjectAttributes:
        """Return what a copy takes over beside the bytes, such as metadata."""
        head = self.client.head_object(self.bucket, info.key, version_id=info.version_id)
        return merge_for_copy(NO_ATTRIBUTES, head)

    def _refusal(self, key: str, why: str) -> Problem:
        text = S3Path(self.bucket, key).text
        return Problem(text, RefusedError(f"{text} was left as it is: {why}"), op="undo")
