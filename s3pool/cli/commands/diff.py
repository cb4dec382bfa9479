"""s3pool diff: two trees side by side, in name order, while both are listed; check compares by its code, too."""

from __future__ import annotations

import argparse
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

from s3pool.cli.context import Context
from s3pool.cli.outcomes import print_summary
from s3pool.cli.output import DONE, FAILED, SKIPPED, code_of_interrupt, combined, exit_code_for
from s3pool.cli.parser import switch, text_flag
from s3pool.cli.selection import AUTO, add_listing_flags, list_mode
from s3pool.cli.transfers import add_filter_flags, executor_for, watch_health
from s3pool.errors import NotFoundError, S3PoolError, UnorderedError, UsageError
from s3pool.filters import NameFilter
from s3pool.location import LocalPath, Location, S3Path, StdStream, dest_for
from s3pool.model import ListPage
from s3pool.s3.list_all import list_pages
from s3pool.sync.compare import Batch, Entry, merge
from s3pool.sync.content import DIFFERENT, ONLY_FIRST, ONLY_SECOND, SAME, UNKNOWN, PairComparer, Side, Verdict
from s3pool.sync.scan import Ahead, RemoteTree, local_source
from s3pool.transfer.flow import Flow
from s3pool.transfer.safe_path import local_error
from s3pool.transfer.tasks import Problem
from s3pool.transfer.walk import LINK_RULES, LINKS_FILES

EXAMPLES = ("diff /var/lib/app s3/backup/app", "diff s3/photos s3/photos --source-profile old")

NAMES = {  # of the signs, in records and in the summary
    SAME: ("same", "the same"),
    DIFFERENT: ("different", "different"),
    ONLY_FIRST: ("only_first", "only in the first"),
    ONLY_SECOND: ("only_second", "only in the second"),
    UNKNOWN: ("unknown", "not to be told apart without --download"),
}
IS_ABSENT = "absent"  # from the other side


def add_arguments(parser: argparse.ArgumentParser, *, one_is_enough: bool = False) -> None:
    """Add the operands and flags of commands that compare two trees."""
    parser.add_argument("first", metavar="A", help="a local path or s3/BUCKET/PREFIX")
    nargs = "?" if one_is_enough else None
    parser.add_argument("second", metavar="B", nargs=nargs, default="", help="the same; one of the two is in S3")
    add_filter_flags(parser)
    parser.add_argument("--links", choices=LINK_RULES, default=LINKS_FILES, help="which symbolic links are followed")
    switch(parser, "-l", "--long", help="after each name, what told it")
    text_flag(parser, "--source-profile", "NAME", help="A is in another pool, of this profile")
    text_flag(parser, "--target-profile", "NAME", help="B is in another pool, of this profile")
    switch(parser, "--sort", help="sort the names here first, for servers that list without order")
    add_listing_flags(parser, jobs=AUTO)


def run(args: argparse.Namespace, ctx: Context) -> int:
    """Compare names, sizes and ETags; no file is read."""
    return compare(args, ctx, by_content=False, downloads=False, shows_same=False)


def compare(args: argparse.Namespace, ctx: Context, *, by_content: bool, downloads: bool, shows_same: bool) -> int:
    """Compare A and B, print what was found, and return the exit code."""
    first, second = _sides(args, ctx)
    comparer = PairComparer(first, second, by_content=by_content, downloads=downloads, retries=ctx.config.retries)
    return _Comparison(first, second, comparer, ctx, shows_same=shows_same).run()


def _sides(args: argparse.Namespace, ctx: Context) -> tuple[Side, Side]:
    first, second = ctx.location(args.first, is_source=True), ctx.location(args.second)
    _check(first, second)
    ours, theirs = ctx.source_session.client, ctx.client
    one = Side(first, ours)  # type: ignore[arg-type]
    if not _is_one(one):
        if isinstance(second, LocalPath) and os.path.isfile(second.path):
            raise UsageError(f"{first.text} is a tree, and {second.text} a file: compare a tree with a tree")
        return one, Side(second, theirs)  # type: ignore[arg-type]
    return Side(one.place, ours, is_one=True), Side(dest_for(first, second), theirs, is_one=True)  # type: ignore[arg-type]


def _check(first: Location, second: Location) -> None:
    for place in (first, second):
        if isinstance(place, StdStream):
            raise UsageError("- is a stream, and only trees and objects are compared")
        if isinstance(place, S3Path) and not place.bucket:
            raise UsageError(f"{place.text} names no bucket; write s3/BUCKET/PREFIX")
    if isinstance(first, LocalPath) and isinstance(second, LocalPath):
        raise UsageError(f"{first.text} and {second.text} are both local: diff -r compares them")


def _is_one(side: Side) -> bool:
    """Return whether a side is a single file or object; a name that is also that of a tree means the tree."""
    place = side.place
    if isinstance(place, LocalPath):
        return os.path.isfile(place.path)
    if place.is_prefix or side.client.has_keys(place.bucket, place.tree_prefix):
        return False
    return side.client.exists(place.bucket, place.key)


def _entry_of(side: Side) -> Batch:
    place = side.place
    if isinstance(place, S3Path):
        try:
            head = side.client.head_object(place.bucket, place.key)
        except NotFoundError as exc:
            if exc.code == "NoSuchBucket":
                raise
            return Batch((), ())
        return Batch([""], [head.size], etags=[head.etag], modified=[head.last_modified])
    try:
        facts = os.stat(place.path)
    except FileNotFoundError:
        return Batch((), ())
    except OSError as exc:
        raise local_error("read", place.path, exc) from exc
    return Batch([""], [facts.st_size], [facts.st_mtime_ns], below=os.fsencode(place.path))


_Pair = tuple[Entry, Entry]  # of one name, which only a closer look tells apart


class _Comparison:
    def __init__(self, first: Side, second: Side, comparer: PairComparer, ctx: Context, *, shows_same: bool) -> None:
        self._first, self._second, self._comparer = first, second, comparer
        self._ctx, self._args = ctx, ctx.args
        self._shows_same = shows_same
        self._counts = dict.fromkeys(NAMES, 0)
        self._codes: list[int] = []
        self._failed = 0
        self._problems: deque[Problem] = deque()
        self._listings: list[Ahead[ListPage]] = []

    def run(self) -> int:
        """Compare everything, and print the summary."""
        executor = executor_for(self._ctx, inline=self._first.is_one)
        try:
            for pair, found in Flow(executor, self._look, watch_health(self._pairs(), self._ctx)):
                if isinstance(found, Verdict):
                    self._tell(found, pair[0].name)
                else:
                    self._fail(found, self._first.text(pair[0].name), self._second.text(pair[0].name))
        except UnorderedError as exc:
            raise UnorderedError(f"{exc.message}, and names are compared in order: --sort sorts them here") from exc
        except KeyboardInterrupt as exc:
            self._summarize()
            if executor.is_busy:
                self._ctx.out.flush()
                os._exit(code_of_interrupt(exc))  # workers that hang in the network would hold the end back
            raise
        finally:
            executor.close()
            for listing in self._listings:
                listing.close()
        self._check_found()
        self._summarize()
        return self._exit_code()

    def _look(self, pair: _Pair) -> tuple[_Pair, Verdict | S3PoolError]:
        try:
            return pair, self._comparer.look(*pair)
        except NotFoundError:  # it was deleted since it was listed
            return pair, Verdict(DIFFERENT, "it was deleted meanwhile")
        except S3PoolError as exc:
            return pair, exc

    def _pairs(self) -> Iterator[_Pair]:
        """Yield the pairs that need a closer look; what the listings tell is printed at once."""
        for ours, theirs in merge(self._batches(self._first), self._batches(self._second)):
            self._tell_problems()
            if ours is None or theirs is None:
                verdict = Verdict(ONLY_FIRST if theirs is None else ONLY_SECOND, IS_ABSENT)
                self._tell_all(verdict, (ours or theirs or Batch((), ())).names)
                continue
            if (all_same := self._comparer.at_one_sight(ours, theirs)) is not None:
                self._tell_all(all_same, ours.names)
                continue
            for place in range(len(ours.names)):
                pair = (ours.entry(place), theirs.entry(place))
                found = self._comparer.at_first_sight(*pair)
                if found is None:
                    yield pair
                else:
                    self._tell(found, pair[0].name)
        self._tell_problems()

    def _batches(self, side: Side) -> Iterable[Batch]:
        place, args = side.place, self._args
        if side.is_one:
            return [_entry_of(side)]
        if isinstance(place, LocalPath):
            return local_source(
                place.path,
                names=NameFilter(args.name_rules),
                links=args.links,
                target_of=lambda _: "",
                on_problem=self._problems.append,
            )
        pages = Ahead(self._pages(side, place))
        self._listings.append(pages)
        tree = RemoteTree(pages, place.tree_prefix, names=NameFilter(args.name_rules), sorts=args.sort)
        return map(_without_directories, tree) if self._first.is_local or self._second.is_local else tree

    def _pages(self, side: Side, place: S3Path) -> Iterator[ListPage]:
        mode = list_mode(self._args, self._ctx, ordered=not self._args.sort)
        return list_pages(side.client, place.bucket, prefix=place.tree_prefix, mode=mode)

    def _tell_problems(self) -> None:
        while self._problems:
            problem = self._problems.popleft()
            self._fail(problem.error, problem.source)

    def _fail(self, error: S3PoolError, first: str, second: str = "") -> None:
        self._failed += 1
        self._codes.append(exit_code_for(error))
        del self._codes[:-2]  # memory must not grow with failures
        self._ctx.out.error(error, source=first, target=second, of_one=True)

    def _tell_all(self, verdict: Verdict, names: Sequence[str]) -> None:
        if verdict.sign == SAME and not self._shows_same:
            self._counts[SAME] += len(names)
            return
        for name in names:
            self._tell(verdict, name)

    def _tell(self, verdict: Verdict, name: str) -> None:
        sign, by = verdict
        self._counts[sign] += 1
        out = self._ctx.out
        if sign in (SAME, UNKNOWN) and (not self._shows_same or (sign == SAME and out.quiet)):
            return
        if out.json:
            first, second = self._first.text(name), self._second.text(name)
            out.record({"type": NAMES[sign][0], "name": name, "first": first, "second": second, "by": by})
            return
        why = f"  ({by})" if self._args.long else ""
        shown = out.escape(name or (self._first.text("") if self._first.is_one else "./"))
        out.line(f"{out.paint(sign, 'good' if sign == SAME else 'bad')} {shown}{why}")

    def _check_found(self) -> None:
        """See to it that there was something to compare: two typos are not equal."""
        prefix = next((side.place for side in (self._first, self._second) if isinstance(side.place, S3Path)), None)
        if prefix is None or prefix.is_bucket or self._failed or any(self._counts.values()):
            return
        detail = "nothing has that name or lies below it, on either side"
        raise NotFoundError(404, "NoSuchKey", detail=detail, resource=prefix.text, op="ListObjects")

    def _summarize(self) -> None:
        counts = self._counts.items()
        words = [f"{count} {NAMES[sign][1]}" for sign, count in counts if count or sign in (SAME, DIFFERENT)]
        words += [f"{self._failed} failed"] if self._failed else []
        fields = {**{NAMES[sign][0]: count for sign, count in counts}, "failed": self._failed}
        print_summary(fields, self._ctx, text=f"s3pool: {', '.join(words)}")

    def _exit_code(self) -> int:
        counts = self._counts
        if counts[DIFFERENT] or counts[ONLY_FIRST] or counts[ONLY_SECOND]:
            return FAILED
        unknown = SKIPPED if counts[UNKNOWN] and self._shows_same else DONE
        return combined([*self._codes, unknown])


def _without_directories(batch: Batch) -> Batch:
    """Leave out the empty objects that stand for directories, which a walk does not tell of."""
    if not any(not name or name.endswith("/") for name in batch.names):
        return batch
    names = zip(batch.names, batch.sizes, strict=True)
    return batch.pick([size > 0 or not (not name or name.endswith("/")) for name, size in names])
