"""The keys that an operand selects, a tree, a glob or one key; and which share of them one of N machines takes."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from s3pool.cli.formats import CsvFormat, JsonFormat, RecordFormat, add_csv_flag
from s3pool.cli.parser import FILTERS, LISTINGS, argument_type, positive_int, section, size_in_bytes, switch, text_flag
from s3pool.errors import LocalFileError, UsageError, describe_os_error
from s3pool.filters import EXCLUDE, FLAG, INCLUDE, WHOLE, NameRange, Shard, choose_shard, parse_plan, ranges_between
from s3pool.location import LocalPath, Location, S3Path, compile_glob, glob_prefix, has_glob
from s3pool.model import SEQUENTIAL, ListMode, ListPage
from s3pool.record import dataclass, replace

if TYPE_CHECKING:
    from s3pool.cli.context import Context
    from s3pool.filters import ObjectFilter
    from s3pool.s3.client import S3Client

DELIMITER = "/"
AUTO = "auto"
AUTO_JOBS = 0
WITHIN_MILLISECOND_S = 0.0004
AUTO_JOBS_PER_ENDPOINT = 4
LEAST_AUTO_JOBS = 8
MOST_AUTO_JOBS = 32  # beyond, one process only waits for itself
PLAN = "--plan"
PROCESSES = "--processes"
BLOCK_BYTES = 1 << 16
NAMES_PER_PAGE = 1000  # of a walk, as a page of a listing has


def add_glob_flag(parser: argparse._ActionsContainer) -> None:
    """Add --no-glob, for commands that read wildcards in S3 paths."""
    switch(parser, "--no-glob", help="take *, ? and [...] in keys as they are")


def add_listing_flags(parser: argparse.ArgumentParser, *, jobs: str = "1") -> None:
    """Add --jobs and --unordered, for commands that list whole trees."""
    group = section(parser, LISTINGS)
    group.add_argument(
        "--jobs",
        type=argument_type(lambda text: AUTO_JOBS if text == AUTO else positive_int(text), "number"),
        default=jobs,
        metavar="N|auto",
        help="list by N requests at once; 1 is one after another, auto finds out how many help (default: %(default)s)",
    )
    switch(group, "--unordered", help="with --jobs: keys as they come, which is faster")


class _FilterRule(argparse.Action):
    """Collect --include and --exclude in one list, because their order decides."""

    def __call__(
        self,
        _parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Append one rule, or those of a file."""
        kind = INCLUDE if option_string in ("--include", "--include-from") else EXCLUDE
        globs = _globs_in(str(values)) if self.metavar == "FILE" else [str(values)]
        setattr(namespace, self.dest, [*(getattr(namespace, self.dest) or []), *((kind, glob) for glob in globs)])


def _globs_in(path: str) -> list[str]:
    """Return the lines of a file; empty ones and those that begin with # are no globs."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as stream:
            lines = [line.rstrip("\r\n") for line in stream]
    except OSError as exc:
        raise UsageError(f"cannot read the globs in {path}: {describe_os_error(exc)}") from exc
    return [line for line in lines if line and not line.startswith("#")]


def add_filter_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that take and leave names."""
    group = section(parser, FILTERS)
    for name, meaning in (("--include", "take names that match"), ("--exclude", "leave names that match")):
        for flag, metavar, what in (
            (name, "GLOB", f"{meaning}; repeatable, the last match decides; * crosses /"),
            (f"{name}-from", "FILE", "the same, with the globs in a file, one a line"),
        ):
            group.add_argument(flag, dest="name_rules", action=_FilterRule, default=[], metavar=metavar, help=what)


def add_fact_flags(parser: argparse._ActionsContainer) -> None:
    """Add the flags that test size and age."""
    parser.add_argument("--larger", type=size_in_bytes, metavar="SIZE", help="more bytes than SIZE: 10M is 10MiB")
    parser.add_argument("--smaller", type=size_in_bytes, metavar="SIZE", help="fewer bytes than SIZE")
    text_flag(parser, "--older-than", "TIME", help="modified before: 7d10h ago, or a date")
    text_flag(parser, "--newer-than", "TIME", help="modified after")


def fact_filter(args: argparse.Namespace, ctx: Context) -> ObjectFilter:
    """Return the tests of size and age that the flags describe."""
    from s3pool.filters import ObjectFilter

    return ObjectFilter(
        larger=args.larger,
        smaller=args.smaller,
        older_than=ctx.moment(args.older_than) if args.older_than else None,
        newer_than=ctx.moment(args.newer_than) if args.newer_than else None,
    )


def list_mode(args: argparse.Namespace, ctx: Context, *, ordered: bool = False) -> ListMode:
    """Return the mode that --jobs and --unordered ask for; with ``ordered`` the order is kept anyway."""
    if args.jobs == 1:
        return SEQUENTIAL
    most = min(MOST_AUTO_JOBS, max(LEAST_AUTO_JOBS, AUTO_JOBS_PER_ENDPOINT * len(ctx.session.nodes)))
    return ListMode(args.jobs, ordered or not args.unordered, most)


def add_at_flag(parser: argparse._ActionsContainer) -> None:
    """Add --at, for commands that read the past of buckets with versions."""
    text_flag(parser, "--at", "TIME", help="as it was then: 2h ago, or a date; the bucket must keep versions")


def moment_of(text: str, ctx: Context) -> float:
    """Return the moment to which versions are compared, a little after the one that a text names.

    Listings tell milliseconds, and what one of them told must be at that moment, however it is rounded.
    """
    return ctx.moment(text) + WITHIN_MILLISECOND_S


class Past:
    """The moment that --at names, in seconds since 1970; ``at`` is None without the flag."""

    def __init__(self, args: argparse.Namespace, ctx: Context) -> None:
        self.at = moment_of(args.at, ctx) if args.at else None
        self._text = args.at
        self._checked: set[tuple[int, str]] = set()
        if args.at and getattr(args, "processes", 1) > 1 and moment_of(args.at, ctx) != self.at:
            raise UsageError(f"--at {args.at} is another moment in each of --processes: write a date")

    def of(self, path: S3Path, client: S3Client) -> float | None:
        """Return the moment, for a path whose bucket keeps versions."""
        if self.at is not None and (id(client), path.bucket) not in self._checked:
            if not path.bucket:
                raise UsageError(f"--at {self._text} needs a bucket: s3/BUCKET/KEY")
            if not client.get_versioning(path.bucket):
                raise UsageError(f"s3/{path.bucket} keeps no versions: nothing tells how it was at {self._text}")
            self._checked.add((id(client), path.bucket))
        return self.at


@dataclass(frozen=True, slots=True)
class Selection:
    """The keys of one operand: all below ``prefix`` that ``admits`` and the shard say yes to.

    ``base`` is what names are shown relative to, and what a shard divides names below.
    ``single`` is a key that is meant when the tree of its name is empty, or nothing. ``at`` is a
    moment in seconds since 1970: what is meant are the keys as they were then.
    """

    path: S3Path
    prefix: str
    base: str
    single: str = ""
    admits: Callable[[str], bool] | None = None
    mode: ListMode = SEQUENTIAL
    shard: Shard = WHOLE
    at: float | None = None

    @property
    def bucket(self) -> str:
        """The bucket."""
        return self.path.bucket

    @property
    def text(self) -> str:
        """The operand as results write it."""
        return self.path.text

    def relative(self, key: str) -> str:
        """Return a key's name below the base; of a key that is not below it, its base name."""
        return key[len(self.base) :] if key.startswith(self.base) else S3Path(self.bucket, key).base_name


def select(
    path: S3Path, *, glob: bool, mode: ListMode = SEQUENTIAL, shard: Shard = WHOLE, at: float | None = None
) -> Selection:
    """Read a path with a bucket: wildcards only with ``glob``."""
    if glob and has_glob(path.key):
        prefix = glob_prefix(path.key)
        base = prefix[: prefix.rfind(DELIMITER) + 1]
        return Selection(path, prefix, base, admits=compile_glob(path.key), mode=mode, shard=shard, at=at)
    prefix = path.tree_prefix
    single = "" if path.is_prefix else path.key
    return Selection(path, prefix, prefix, single=single, mode=mode, shard=shard, at=at)


def iter_selected_pages(
    client: S3Client,
    selection: Selection,
    *,
    delimiter: str = "",
    versions: bool = False,
    max_keys: int = 0,
    ahead: bool = False,
) -> Iterator[ListPage]:
    """Yield the pages of a selection, in key order unless its mode says otherwise.

    A page from which a glob or a shard leaves objects out may have become empty; its prefixes are those that can hold
    names of the shard. ``max_keys`` bounds the keys that are asked for, where nothing is left out. ``ahead`` is for
    callers that make no other requests meanwhile: the next page is then asked for early.
    """
    found = False
    bound = max_keys if selection.admits is None and selection.shard.is_whole else 0
    for page in _iter_pages(client, selection, delimiter=delimiter, versions=versions, max_keys=bound, ahead=ahead):
        found = found or bool(page.objects or page.prefixes)
        yield _admitted(page, selection, is_level=bool(delimiter))
    if found or not selection.single:
        return
    # Of a range the shard may have none of the keys that there are below.
    if selection.shard.range is None or not client.has_keys(selection.bucket, selection.prefix):
        yield from _iter_single(client, selection, versions=versions)


def _iter_pages(
    client: S3Client, selection: Selection, *, delimiter: str, versions: bool, max_keys: int, ahead: bool
) -> Iterator[ListPage]:
    from s3pool.s3.list_all import list_pages, list_past_pages, list_version_pages

    start, until = _bounds(selection, delimiter)
    what: dict[str, Any] = {"prefix": selection.prefix, "delimiter": delimiter, "mode": selection.mode}
    what |= {"start_after": start, "until": until}
    if selection.at is not None:
        return list_past_pages(client, selection.bucket, at=selection.at, **what)
    if versions:
        return list_version_pages(client, selection.bucket, **what)
    begin = client.begin_objects_page if ahead else None
    return list_pages(client, selection.bucket, max_keys=max_keys, ahead=begin, **what)


def _bounds(selection: Selection, delimiter: str) -> tuple[str, str | None]:
    """Return the start-after and the last name of a listing.

    One level is listed from before the prefix that the range begins in: servers differ on whether
    a start inside of a prefix lists it.
    """
    start, until = selection.shard.bounds(selection.base)
    if delimiter and start.startswith(selection.prefix):
        head, slash, _ = start[len(selection.prefix) :].partition(delimiter)
        start = selection.prefix + head if slash else start
    return start, until


def _admitted(page: ListPage, selection: Selection, *, is_level: bool) -> ListPage:
    objects = page.objects
    if (admits := selection.admits) is not None:
        objects = tuple(info for info in objects if admits(info.key))
    prefixes = page.prefixes
    shard, relative = selection.shard, selection.relative
    # A listing of a range has no other objects, but where it is of one level.
    if not shard.is_whole and (shard.range is None or is_level):
        objects = tuple(info for info in objects if shard.holds(relative(info.key)))
        prefixes = tuple(prefix for prefix in prefixes if shard.may_contain(relative(prefix)))
    if objects is page.objects and prefixes is page.prefixes:
        return page
    return replace(page, objects=objects, prefixes=prefixes)


def _iter_single(client: S3Client, selection: Selection, *, versions: bool) -> Iterator[ListPage]:
    """Yield a page with the key that has exactly the operand's name, if there is one."""
    from s3pool.s3.list_all import list_pages, list_past_pages, list_version_pages

    key = selection.single
    if selection.at is not None:
        pages = list_past_pages(client, selection.bucket, at=selection.at, prefix=key, until=key)
    elif versions:
        pages = list_version_pages(client, selection.bucket, prefix=key)
    else:
        pages = list_pages(client, selection.bucket, prefix=key, max_keys=1)
    for page in pages:
        objects = tuple(info for info in page.objects if info.key == key)
        if objects and selection.shard.holds_named(selection.relative(key)):
            yield replace(page, objects=objects, prefixes=())
        if len(objects) < len(page.objects) or not (objects or selection.at is not None):
            return


def add_shard_flags(parser: argparse.ArgumentParser) -> None:
    """Add --shard, --plan and --processes."""
    group = section(parser, LISTINGS)
    share = "only names of shard I of N; auto: the share that a Slurm array or an indexed Kubernetes job gives"
    text_flag(group, FLAG, "I/N", help=share)
    ranges = f"with {FLAG}: key ranges from s3pool shards, a file or s3/b/key; lists and walks nothing else"
    text_flag(group, PLAN, "FILE", help=ranges)
    group.add_argument(
        PROCESSES, type=positive_int, default=1, metavar="N", help="by N processes, each with a range of the names (1)"
    )


def add_looking_flags(parser: argparse.ArgumentParser) -> None:
    """Add what ls, du and find take alike."""
    add_at_flag(parser)
    add_csv_flag(parser)
    add_glob_flag(parser)
    add_shard_flags(parser)
    add_listing_flags(parser)


class Looking:
    """What ls, du and find look through: their operands, or all that this process is to do of them."""

    def __init__(self, args: argparse.Namespace, ctx: Context) -> None:
        self._args, self._ctx = args, ctx
        texts = args.paths if ctx.part is None or ctx.part.operand is None else [ctx.part.operand]
        self.paths = [ctx.s3(text) for text in texts] or [S3Path(ctx.config.bucket)]
        self.by_parts = by_processes(args, ctx)
        self.shard = WHOLE if self.by_parts else shard_of(args, ctx)
        self._past = Past(args, ctx)

    def select(self, path: S3Path, *, ordered: bool = False) -> Selection:
        """Return the keys of an operand that are meant; with ``ordered`` in order, whatever the flags say."""
        mode, at = list_mode(self._args, self._ctx, ordered=ordered), self._past.of(path, self._ctx.client)
        return select(path, glob=not self._args.no_glob, mode=mode, shard=self.shard, at=at)

    def form(self, columns: Sequence[str]) -> RecordFormat | None:
        """Return the form for programs that was asked for, with its header written; None for text."""
        out = self._ctx.out
        if not self._args.csv:
            return JsonFormat(out.encode) if out.json else None
        table = CsvFormat(columns)
        if self._ctx.part is None:
            out.block(table.header())
        return table


def by_processes(args: argparse.Namespace, ctx: Context) -> bool:
    """Return whether the command is to be done by several processes, and this is not one of them."""
    if args.processes == 1 or ctx.part is not None:
        return False
    if args.shard or args.plan:
        raise UsageError(f"{PROCESSES} and {FLAG} exclude each other: the one is for this machine, the other for many")
    return True


def shard_of(args: argparse.Namespace, ctx: Context) -> Shard:
    """Return the shard that this run takes; a note names the one that the environment gave."""
    if ctx.part is not None:
        return ctx.part.shard
    shard = choose_shard(args.shard, ctx.environ)
    if args.plan:
        if not args.shard:
            raise UsageError(f"{PLAN} needs {FLAG}: which of its ranges is to be done?")
        ranges = parse_plan(_read(args.plan, ctx).splitlines(), name=args.plan)
        if shard.count != len(ranges):
            raise UsageError(f"{args.plan} is a plan of {len(ranges)} shards, and {FLAG} says {shard.text}")
        shard = replace(shard, range=ranges[shard.index])
    if shard.origin != FLAG and not shard.is_whole:
        ctx.out.remark(f"shard {shard.text} by {shard.origin}; {FLAG} 0/1 takes everything")
    return shard


def _read(text: str, ctx: Context) -> str:
    place = ctx.location(text)
    if isinstance(place, S3Path):
        with ctx.client.get_object(place.bucket, place.key) as response:
            return b"".join(map(bytes, response.iter_blocks(BLOCK_BYTES))).decode("utf-8", "replace")
    if not isinstance(place, LocalPath):
        raise UsageError(f"{PLAN} is a file or an object, not a stream: every shard has to read it")
    try:
        with open(place.path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError as exc:
        raise LocalFileError(f"cannot read {place.path}: {exc.strerror}") from exc


def make_plan(ctx: Context, tree: Location, count: int, *, source: bool = False) -> list[NameRange]:
    """Return ranges of like size of a tree's names, from a few pages; ``source`` names the pool of sources."""
    from s3pool.s3.sampling import choose_borders

    if isinstance(tree, LocalPath):
        return _padded(choose_borders(_reader_of_files(tree.path), count), count)
    if not isinstance(tree, S3Path):
        return _padded([], count)
    prefix = tree.tree_prefix
    session = ctx.source_session if source else ctx.session
    keys = choose_borders(_reader_of_keys(session.client, tree.bucket, prefix), count, prefix=prefix)
    return _padded([key[len(prefix) :] for key in keys], count)


def _padded(borders: list[str], count: int) -> list[NameRange]:
    last = borders[-1] if borders else ""
    return ranges_between(borders + [last] * (count - 1 - len(borders)))


def _reader_of_keys(client: S3Client, bucket: str, prefix: str) -> Callable[[str, str | None], tuple[list[str], bool]]:
    from s3pool.s3.pages import keys_of
    from s3pool.s3.paging import iter_pages

    def read(after: str, until: str | None) -> tuple[list[str], bool]:
        page = next(iter_pages(client, bucket, prefix=prefix, start_after=after, until=until, must_be_ordered=True))
        return list(keys_of(page.objects)), not page.truncated

    return read


def _reader_of_files(root: str) -> Callable[[str, str | None], tuple[list[str], bool]]:
    from s3pool.transfer.walk import LocalFiles, Walk

    def read(after: str, until: str | None) -> tuple[list[str], bool]:
        walk = Walk(root, within=NameRange(after or None, until))
        found = (each.names if isinstance(each, LocalFiles) else [each.relative] for each in walk)
        names = list(islice(chain.from_iterable(found), NAMES_PER_PAGE))
        return names, len(names) < NAMES_PER_PAGE

    return read
