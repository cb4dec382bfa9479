"""s3pool diff and check: two trees side by side, in name order, while both are listed; or the answers of all nodes."""

from __future__ import annotations

import argparse
import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence

from s3pool.cli.context import Context
from s3pool.cli.output import DONE, FAILED, SKIPPED, code_of_interrupt, combined, exit_code_for
from s3pool.cli.parser import Command, switch, text_flag
from s3pool.cli.selection import AUTO, add_filter_flags, add_listing_flags, list_mode
from s3pool.cli.transfers import executor_for, print_summary, watch_health
from s3pool.errors import NotFoundError, S3PoolError, UnorderedError, UsageError
from s3pool.filters import NameFilter
from s3pool.location import AFTER_SLASH, LocalPath, Location, S3Path, StdStream, dest_for, name_bytes
from s3pool.model import Endpoint, ListPage
from s3pool.s3.client import S3Client
from s3pool.s3.list_all import list_pages, on_one_node
from s3pool.s3.paging import iter_pages
from s3pool.sync.compare import Batch, Entry, merge
from s3pool.sync.content import DIFFERENT, ONLY_FIRST, ONLY_SECOND, SAME, UNKNOWN, PairComparer, Side, Verdict
from s3pool.sync.scan import Ahead, RemoteTree, local_source
from s3pool.transfer.flow import Flow
from s3pool.transfer.safe_path import local_error
from s3pool.transfer.tasks import Problem
from s3pool.transfer.walk import LINK_RULES, LINKS_FILES, NO_FILTER

NAMES = {  # of the signs, in records and in the summary
    SAME: ("same", "the same"),
    DIFFERENT: ("different", "different"),
    ONLY_FIRST: ("only_first", "only in the first"),
    ONLY_SECOND: ("only_second", "only in the second"),
    UNKNOWN: ("unknown", "not to be told apart without --download"),
}


def _add_trees(parser: argparse.ArgumentParser, *, nargs_of_second: str | None = None) -> None:
    parser.add_argument("first", metavar="A", help="a local path or s3/BUCKET/PREFIX")
    what = "the same; one of the two is in S3"
    parser.add_argument("second", metavar="B", nargs=nargs_of_second, default="", help=what)
    add_filter_flags(parser)
    parser.add_argument("--links", choices=LINK_RULES, default=LINKS_FILES, help="which symbolic links are followed")
    switch(parser, "-l", "--long", help="after each name, what told it")
    text_flag(parser, "--source-profile", "NAME", help="A is in another pool, of this profile")
    text_flag(parser, "--target-profile", "NAME", help="B is in another pool, of this profile")
    switch(parser, "--sort", help="sort the names here first, for servers that list without order")
    add_listing_flags(parser, jobs=AUTO)


def _add_proofs(parser: argparse.ArgumentParser) -> None:
    _add_trees(parser, nargs_of_second="?")
    switch(parser, "--download", help="read the bytes of both sides, whatever is told of them")
    switch(parser, "--nodes", help="ask every node for the keys of A, and name those that disagree")


def _diff(args: argparse.Namespace, ctx: Context) -> int:
    """Compare names, sizes and ETags; no file is read."""
    return _Comparison(*_sides(args, ctx), ctx, proves=False).run()


def _check(args: argparse.Namespace, ctx: Context) -> int:
    """Compare the content of two trees, or the answers of all nodes."""
    if args.nodes:
        if args.second or args.download or args.source_profile:
            raise UsageError("--nodes takes one path, and neither --download nor --source-profile")
        return _check_nodes(ctx.s3(args.first), ctx)
    if not args.second:
        raise UsageError("check needs two trees: check A B, or check --nodes A")
    return _Comparison(*_sides(args, ctx), ctx, proves=True).run()


def _sides(args: argparse.Namespace, ctx: Context) -> tuple[Side, Side]:
    first, second = ctx.location(args.first, is_source=True), ctx.location(args.second)
    _refuse_others(first, second)
    ours, theirs = ctx.source_session.client, ctx.client
    one = Side(first, ours)  # type: ignore[arg-type]
    if not _is_one(one):
        if isinstance(second, LocalPath) and os.path.isfile(second.path):
            raise UsageError(f"{first.text} is a tree, and {second.text} a file: compare a tree with a tree")
        return one, Side(second, theirs)  # type: ignore[arg-type]
    return Side(one.place, ours, is_one=True), Side(dest_for(first, second), theirs, is_one=True)  # type: ignore[arg-type]


def _refuse_others(first: Location, second: Location) -> None:
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
    """Compares two sides; one that ``proves`` compares content, and shows what is the same, too."""

    def __init__(self, first: Side, second: Side, ctx: Context, *, proves: bool) -> None:
        self._first, self._second, self._ctx, self._args = first, second, ctx, ctx.args
        self._proves, retries = proves, ctx.config.retries
        downloads = proves and ctx.args.download
        self._comparer = PairComparer(first, second, by_content=proves, downloads=downloads, retries=retries)
        self._counts = dict.fromkeys(NAMES, 0)
        self._codes: list[int] = []
        self._failed = 0
        self._problems: deque[Problem] = deque()
        self._listings: list[Ahead[ListPage]] = []

    def run(self) -> int:
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
        counts = self._counts
        if counts[DIFFERENT] or counts[ONLY_FIRST] or counts[ONLY_SECOND]:
            return FAILED
        return combined([*self._codes, SKIPPED if counts[UNKNOWN] and self._proves else DONE])

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
                verdict = Verdict(ONLY_FIRST if theirs is None else ONLY_SECOND, "absent")
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
        mode = list_mode(args, self._ctx, ordered=not args.sort)
        pages = Ahead(list_pages(side.client, place.bucket, prefix=place.tree_prefix, mode=mode))
        self._listings.append(pages)
        tree = RemoteTree(pages, place.tree_prefix, names=NameFilter(args.name_rules), sorts=args.sort)
        return map(_without_directories, tree) if self._first.is_local or self._second.is_local else tree

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
        if verdict.sign == SAME and not self._proves:
            self._counts[SAME] += len(names)
            return
        for name in names:
            self._tell(verdict, name)

    def _tell(self, verdict: Verdict, name: str) -> None:
        sign, by = verdict
        self._counts[sign] += 1
        out = self._ctx.out
        if sign in (SAME, UNKNOWN) and (not self._proves or (sign == SAME and out.quiet)):
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


def _without_directories(batch: Batch) -> Batch:
    """Leave out the empty objects that stand for directories, which a walk does not tell of."""
    if not any(not name or name.endswith("/") for name in batch.names):
        return batch
    names = zip(batch.names, batch.sizes, strict=True)
    return batch.pick([size > 0 or not (not name or name.endswith("/")) for name, size in names])


Fact = tuple[int, str] | None  # size and ETag of a key; None where there is none


def _check_nodes(path: S3Path, ctx: Context) -> int:
    """Compare what the nodes tell of the keys below a path, or of the key itself, and return the exit code."""
    if not path.bucket:
        raise UsageError("check --nodes needs a bucket: s3/BUCKET or s3/BUCKET/PREFIX")
    endpoints = [node.endpoint for node in ctx.session.nodes]
    if len(endpoints) < 2:
        raise UsageError("check --nodes compares the nodes of a pool, and this pool has one endpoint")
    views = [_View(ctx.client, path, endpoint) for endpoint in endpoints]
    try:
        return _NodeCheck(path, views, ctx).run()
    finally:
        for view in views:
            view.pages.close()


class _View:
    """The keys as one node tells them; ``error`` is what ended its listing."""

    def __init__(self, client: S3Client, path: S3Path, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.error: S3PoolError | None = None
        self.has_no_bucket = False
        self.at = 0  # of the page: where the next key is
        self._client, self._path = client, path
        lister = on_one_node(client, endpoint)
        # A name without a slash at its end may be a key, a tree, or both.
        until = None if path.is_prefix else path.key + AFTER_SLASH
        self.pages = Ahead(iter_pages(lister, path.bucket, prefix=path.key, until=until, must_be_ordered=True))
        self._batches = self._read()
        self._batch = Batch((), ())

    def _read(self) -> Iterator[Batch]:
        path = self._path
        try:
            for batch in RemoteTree(self.pages, "", names=NO_FILTER):
                mine = [key == path.key or key.startswith(path.tree_prefix) for key in batch.names]
                yield batch if all(mine) else batch.pick(mine)
        except NotFoundError as exc:
            if exc.code != "NoSuchBucket":
                raise
            self.has_no_bucket = True

    def head(self) -> str | None:
        """Return the next key; None at the end, or where the listing has failed."""
        try:
            while self.at == len(self._batch.names):
                batch = next(self._batches, None)
                if batch is None:
                    return None
                self._batch, self.at = batch, 0
        except S3PoolError as exc:
            self.error = exc
            return None
        return self._batch.names[self.at]

    @property
    def rest(self) -> Batch:
        """What is left of the page."""
        return self._batch.cut(self.at, len(self._batch.names))

    def fact(self, key: str) -> Fact:
        """Return what HEAD tells of a key now."""
        try:
            head = self._client.head_object(self._path.bucket, key, only=self.endpoint)
        except NotFoundError:
            return None
        return head.size, head.etag


class _NodeCheck:
    def __init__(self, path: S3Path, views: Sequence[_View], ctx: Context) -> None:
        self._path, self._views, self._ctx = path, list(views), ctx
        self._same = self._different = 0
        self._blamed: Counter[str] = Counter()
        self._codes: list[int] = []
        self._missing: list[_View] = []  # nodes that do not know the bucket

    def run(self) -> int:
        """Compare, print the keys on which nodes disagree, and the summary."""
        while (heads := self._heads()) and len(self._views) > 1:
            if not self._pass_equal():
                key = min(heads, key=name_bytes)
                for view in self._views:
                    if view.head() == key:
                        view.at += 1
                self._look(key)
        if self._missing and not self._views:
            raise NotFoundError(404, "NoSuchBucket", resource=self._path.text, op="ListObjects")
        for view in self._missing:
            self._blame_for_bucket(view)
        if not self._codes and not self._same and not self._different and self._path.key:
            raise NotFoundError(404, "NoSuchKey", detail="no node has it", resource=self._path.text, op="ListObjects")
        self._summarize()
        return FAILED if self._different or self._missing else combined([*self._codes, DONE])

    def _heads(self) -> list[str]:
        heads = [(view, view.head()) for view in self._views]
        for view, _ in heads:
            if view.error is not None:
                self._codes.append(exit_code_for(view.error))
                self._ctx.out.error(view.error, source=view.endpoint.url, of_one=True)
        self._missing += [view for view in self._views if view.has_no_bucket]
        self._views = [view for view in self._views if view.error is None and not view.has_no_bucket]
        return [head for _, head in heads if head is not None]

    def _pass_equal(self) -> bool:
        """Pass over the keys that all nodes tell alike; return whether there were any."""
        rests = [view.rest for view in self._views]
        for count in (min(len(rest.names) for rest in rests), 1):
            cuts = [rest.cut(0, count) for rest in rests]
            facts = [(cut.names, cut.sizes, cut.etags) for cut in cuts]
            if cuts[0].names and facts.count(facts[0]) == len(facts):
                for view in self._views:
                    view.at += count
                self._same += count
                return True
        return False

    def _look(self, key: str) -> None:
        """Ask all nodes for a key on which their listings differ: it may have come or gone meanwhile."""
        facts: dict[str, Fact] = {}
        for view in self._views:
            try:
                facts[view.endpoint.url] = view.fact(key)
            except S3PoolError as exc:
                self._codes.append(exit_code_for(exc))
                self._ctx.out.error(exc, source=S3Path(self._path.bucket, key).text, of_one=True)
        if len(set(facts.values())) < 2:
            self._same += 1
            return
        self._different += 1
        (usual, _), *_ = Counter(facts.values()).most_common(1)
        odd = [url for url, fact in facts.items() if fact != usual]
        self._blamed.update(odd)
        self._tell(S3Path(self._path.bucket, key).text, facts, odd)

    def _blame_for_bucket(self, view: _View) -> None:
        url, text = view.endpoint.url, S3Path(self._path.bucket).text
        self._blamed[url] += 1
        fields = {"type": "different", "url": text, "nodes": {url: None}, "odd": [url]}
        self._ctx.out.result(f"! {text}  {url}: there is no such bucket", fields)

    def _tell(self, text: str, facts: dict[str, Fact], odd: Sequence[str]) -> None:
        nodes = {url: fact and {"size": fact[0], "etag": fact[1]} for url, fact in facts.items()}
        fields = {"type": "different", "url": text, "nodes": nodes, "odd": list(odd)}
        words = ", ".join(f"{url}: {_words(facts[url])}" for url in odd)
        usual = next(fact for url, fact in facts.items() if url not in odd)
        self._ctx.out.result(f"! {self._ctx.out.escape(text)}  {words}; the others: {_words(usual)}", fields)

    def _summarize(self) -> None:
        total, nodes = self._same + self._different, len(self._views)
        fields = {"keys": total, "nodes": nodes, "different": self._different, "blamed": dict(self._blamed)}
        words = ", ".join(f"{url} on {count}" for url, count in self._blamed.most_common())
        verdict = f"{self._different} differ: {words}" if self._blamed else "all agree"
        print_summary(fields, self._ctx, text=f"s3pool: {total} keys, {nodes} nodes: {verdict}")


def _words(fact: Fact) -> str:
    return "missing" if fact is None else f"{fact[0]} bytes, ETag {fact[1]}"


COMMANDS = {
    "diff": Command(
        ("diff /var/lib/app s3/backup/app", "diff s3/photos s3/photos --source-profile old"), _add_trees, _diff
    ),
    "check": Command(
        (
            "check /var/lib/app s3/backup/app",
            "check --download s3/photos s3/photos --target-profile new",
            "check --nodes s3/backup",
        ),
        _add_proofs,
        _check,
    ),
}
