"""s3pool check: prove that two trees have the same content, or that all nodes have the same keys."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence

from s3pool.cli.commands import diff
from s3pool.cli.context import Context
from s3pool.cli.outcomes import print_summary
from s3pool.cli.output import DONE, FAILED, combined, exit_code_for
from s3pool.cli.parser import switch
from s3pool.errors import NotFoundError, S3PoolError, UsageError
from s3pool.filters import NameFilter
from s3pool.location import S3Path, name_bytes
from s3pool.model import Endpoint
from s3pool.s3.client import S3Client
from s3pool.s3.list_all import on_one_node
from s3pool.s3.paging import iter_pages
from s3pool.sync.compare import Batch
from s3pool.sync.scan import AFTER_SLASH, Ahead, RemoteTree

EXAMPLES = (
    "check /var/lib/app s3/backup/app",
    "check --download s3/photos s3/photos --target-profile new",
    "check --nodes s3/backup",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the operands and flags of check."""
    diff.add_arguments(parser, one_is_enough=True)
    switch(parser, "--download", help="read the bytes of both sides, whatever is told of them")
    switch(parser, "--nodes", help="ask every node for the keys of A, and name those that disagree")


def run(args: argparse.Namespace, ctx: Context) -> int:
    """Compare the content of two trees, or the answers of all nodes."""
    if args.nodes:
        if args.second or args.download or args.source_profile:
            raise UsageError("--nodes takes one path, and neither --download nor --source-profile")
        return check_nodes(ctx.s3(args.first), ctx)
    if not args.second:
        raise UsageError("check needs two trees: check A B, or check --nodes A")
    return diff.compare(args, ctx, by_content=True, downloads=args.download, shows_same=True)


EVERYTHING = NameFilter()
Fact = tuple[int, str] | None  # size and ETag of a key; None where there is none


def check_nodes(path: S3Path, ctx: Context) -> int:
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
            view.close()


class _View:
    """The keys as one node tells them; ``error`` is what ended its listing."""

    def __init__(self, client: S3Client, path: S3Path, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.error: S3PoolError | None = None
        self.has_no_bucket = False
        self.keys = 0
        self._client = client
        self._path = path
        lister = on_one_node(client, endpoint)
        # A name without a slash at its end may be a key, a tree, or both.
        until = None if path.is_prefix else path.key + AFTER_SLASH
        self._pages = Ahead(iter_pages(lister, path.bucket, prefix=path.key, until=until, must_be_ordered=True))
        self._batches = self._read()
        self._batch = Batch((), ())
        self._at = 0

    def close(self) -> None:
        """Let the listing end."""
        self._pages.close()

    def _read(self) -> Iterator[Batch]:
        path = self._path
        try:
            for batch in RemoteTree(self._pages, "", names=EVERYTHING):
                mine = [key == path.key or key.startswith(path.tree_prefix) for key in batch.names]
                yield batch if all(mine) else batch.pick(mine)
        except NotFoundError as exc:
            if exc.code != "NoSuchBucket":
                raise
            self.has_no_bucket = True

    def head(self) -> str | None:
        """Return the next key; None at the end, or where the listing has failed."""
        try:
            while self._at == len(self._batch.names):
                batch = next(self._batches, None)
                if batch is None:
                    return None
                self._batch, self._at = batch, 0
        except S3PoolError as exc:
            self.error = exc
            return None
        return self._batch.names[self._at]

    @property
    def rest(self) -> Batch:
        """What is left of the page."""
        return self._batch.cut(self._at, len(self._batch.names))

    def skip(self, count: int) -> None:
        """Move behind the next keys."""
        self._at += count
        self.keys += count

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
                        view.skip(1)
                self._look(key)
        missing = self._missing
        if missing and not self._views:
            raise NotFoundError(404, "NoSuchBucket", resource=self._path.text, op="ListObjects")
        for view in missing:
            self._blame_for_bucket(view)
        if not self._codes and not self._same and not self._different and self._path.key:
            raise NotFoundError(404, "NoSuchKey", detail="no node has it", resource=self._path.text, op="ListObjects")
        self._summarize()
        return FAILED if self._different or missing else combined([*self._codes, DONE])

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
        count = min(len(rest.names) for rest in rests)
        first = rests[0].cut(0, count)
        if not count or any(not _is_equal(first, rest.cut(0, count)) for rest in rests[1:]):
            count = 1
            first = rests[0].cut(0, 1)
            if not first.names or any(not _is_equal(first, rest.cut(0, 1)) for rest in rests[1:]):
                return False
        for view in self._views:
            view.skip(count)
        self._same += count
        return True

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


def _is_equal(first: Batch, second: Batch) -> bool:
    return (first.names, first.sizes, first.etags) == (second.names, second.sizes, second.etags)


def _words(fact: Fact) -> str:
    return "missing" if fact is None else f"{fact[0]} bytes, ETag {fact[1]}"
