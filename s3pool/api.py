"""The library: ``s3pool.connect()`` returns a Pool, whose methods are the commands of the command line.

Paths are written as there: ``s3://bucket/key`` or ``s3/bucket/key``; everything else is local. Errors are those of
``s3pool.errors``: NotFoundError, AccessDeniedError, NoEndpointError and so on, all of them S3PoolError.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, overload

from s3pool.config.load import load_config
from s3pool.config.options import Config
from s3pool.errors import S3Error, S3PoolError, UsageError
from s3pool.location import LocalPath, Location, S3Path, StdStream, parse, parse_s3
from s3pool.model import ObjectAttributes, ObjectHead
from s3pool.record import replace
from s3pool.s3.client import S3Client
from s3pool.s3.list_all import list_pages
from s3pool.session import Session, open_session
from s3pool.streams import BLOCK_BYTES, EMPTY_STATUS, ReadStream, WriteStream, content_of_range
from s3pool.transfer.context import TransferContext, TransferOptions
from s3pool.transfer.digests import sha256_is_cheaper
from s3pool.transfer.executor import BoundedExecutor, choose_workers, make_executor
from s3pool.transfer.runner import run, run_deletes
from s3pool.transfer.sources import SourceRules, SourceTasks
from s3pool.transfer.tasks import DeleteTask, Outcome, Summary

if TYPE_CHECKING:
    from s3pool.sync.job import Report

logger = logging.getLogger(__name__)

DELIMITER = "/"
PRESIGNED_S = 3600
SIGNED_METHODS = ("GET", "HEAD", "PUT", "POST", "DELETE")
KEY_VARIABLES = {
    "access_key": "AWS_ACCESS_KEY_ID",
    "secret_key": "AWS_SECRET_ACCESS_KEY",
    "session_token": "AWS_SESSION_TOKEN",
}
FLAGS = {option.name: option for option in Config.OPTIONS if option.flag}


class ListEntry(NamedTuple):
    """One name of a listing: an object, a prefix (its key ends in ``/``), or a bucket (without a key)."""

    bucket: str
    key: str = ""
    size: int = 0
    last_modified: str = ""  # ISO 8601 in UTC
    etag: str = ""
    storage_class: str = ""

    @property
    def path(self) -> str:
        """Return the path that other methods take."""
        return f"s3://{self.bucket}/{self.key}" if self.key else f"s3://{self.bucket}"

    @property
    def is_object(self) -> bool:
        """Return whether it is an object, and no prefix or bucket."""
        return bool(self.last_modified and self.key)


def connect(
    *,
    endpoints: str | Sequence[str] | None = None,
    profile: str | None = None,
    access_key: str | None = None,
    secret_key: str | None = None,
    session_token: str | None = None,
    config: str | None = None,
    env_file: str | None = None,
    **options: object,
) -> Pool:
    """Return a pool; nothing is asked of the network before it is used.

    What is not given is read like on the command line: environment, `.env`, configuration file, AWS's files.
    ``options`` are other flags by name, such as ``region="eu-1"``, ``insecure=True``, ``workers=8`` or ``sign=False``.

    Raises:
        ConfigError: no endpoints or keys are set, or a value is wrong. UsageError: there is no such option.
    """
    given = {"endpoints": [endpoints] if isinstance(endpoints, str) else endpoints, **options}
    flags: dict[str, object] = {"profile": profile, "config": config, "env_file": env_file}
    for name, value in given.items():
        option = FLAGS.get(name)
        if option is None:
            raise UsageError(f"connect() knows no option {name!r}; there are: {', '.join(sorted(FLAGS))}")
        flags[option.dest] = value if option.switch is None or value is None else value == option.switch
    environ: Mapping[str, str] = os.environ
    if access_key is None and (secret_key is not None or session_token is not None):
        raise UsageError("connect() takes secret_key and session_token together with access_key")
    if access_key is not None:
        pair = {"access_key": access_key, "secret_key": secret_key, "session_token": session_token}
        environ = {**os.environ, **{KEY_VARIABLES[name]: value or "" for name, value in pair.items()}}
    found = load_config(flags, environ=environ, cwd=os.getcwd(), home=os.path.expanduser("~"))
    for warning in found.warnings:
        logger.warning("%s", warning)
    return Pool(found)


class Pool:
    """The nodes of a configuration as one store; safe for many threads, and a context manager.

    A process that was forked off gets connections of its own with the first use.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        # Guards the session: made anew in a process that was forked off.
        self._lock = threading.Lock()
        self._owner = os.getpid()
        self._session = open_session(config)
        self._executor: BoundedExecutor | None = None
        self._stop = threading.Event()

    # -- life ------------------------------------------------------------------------------

    @property
    def session(self) -> Session:
        """Return the session of this process."""
        if self._owner != os.getpid():
            self._lock = threading.Lock()  # a thread that is not in this process may have held it
            self._session, self._executor, self._owner = open_session(self.config), None, os.getpid()
        return self._session

    @property
    def client(self) -> S3Client:
        """Return the client with S3's operations one by one."""
        return self.session.client

    def close(self) -> None:
        """End what runs in the background, and close the connections."""
        self._stop.set()
        if self._executor is not None and self._owner == os.getpid():
            self._executor.close()
        self.session.close()

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def _context(self, *, own_workers: bool = True, **options: Any) -> TransferContext:
        """Return the means of a run; streams share their workers, and a run has its own."""
        session = self.session
        signs = self.config.sign and not session.all_tls and sha256_is_cheaper()
        with self._lock:
            session.start_health()
            executor = None if own_workers else self._executor
            if executor is None:
                count = choose_workers(self.config.workers, len(session.nodes))
                executor = make_executor(self.config.workers, count, is_limited=self.config.is_limited)
            if not own_workers:
                self._executor = executor
        context = TransferContext(
            session.client, options=TransferOptions(sign_payload=signs, **options), executor=executor
        )
        if not own_workers:
            context.stop = self._stop
        return context

    # -- single objects --------------------------------------------------------------------

    def list(self, path: str = "", *, recursive: bool = False) -> Iterator[ListEntry]:
        """Yield what is below a bucket or directory of keys, in order; the buckets without a path.

        A path that is a key alone yields that one object.
        """
        place = parse_s3(path or "s3")
        if place.is_root:
            yield from (ListEntry(bucket.name, last_modified=bucket.created) for bucket in self.client.list_buckets())
            return
        found = False
        delimiter = "" if recursive else DELIMITER
        for page in list_pages(self.client, place.bucket, prefix=place.tree_prefix, delimiter=delimiter):
            names = [ListEntry(place.bucket, prefix) for prefix in page.prefixes]
            names += [ListEntry(place.bucket, *info[:5]) for info in page.objects]
            found = found or bool(names)
            yield from sorted(names)
        if not found and not place.is_prefix and (head := self.client.find_object(place.bucket, place.key)):
            yield ListEntry(place.bucket, place.key, head.size, head.last_modified, head.etag, head.storage_class)

    def head(self, path: str, *, version_id: str = "") -> ObjectHead:
        """Return all about an object but its bytes.

        Raises:
            NotFoundError: there is no such object.
        """
        place = _object(path)
        return self.client.head_object(place.bucket, place.key, version_id=version_id)

    def exists(self, path: str) -> bool:
        """Return whether there is an object of this name."""
        place = _object(path)
        return self.client.exists(place.bucket, place.key)

    def read_range(self, path: str, start: int, end: int) -> bytes:
        """Return the bytes from start up to, and without, end; fewer where the object ends before."""
        place = _object(path)
        header = f"bytes={start}-{end - 1}"
        try:
            response = self.client.get_object(place.bucket, place.key, range_header=header, read_bytes=end - start)
        except S3Error as exc:
            if exc.status != EMPTY_STATUS:
                raise
            return b""
        with response:
            return content_of_range(response, place, start, end)

    def presign(self, path: str, *, expires: float = PRESIGNED_S, method: str = "GET") -> str:
        """Return a URL that works without keys for so many seconds.

        Raises:
            UsageError: no URL can be signed for the method.
        """
        place = _object(path)
        if method not in SIGNED_METHODS:
            raise UsageError(f"presign() signs {', '.join(SIGNED_METHODS)}, not {method!r}")
        session = self.session
        request = self.client.request_for_presign(method, place.bucket, place.key)
        endpoint = session.config.public_url or session.answering_endpoint() or session.nodes[0].endpoint
        return session.signer.presign(request, endpoint, time.time(), expires_s=int(expires))

    @overload
    def open(
        self, path: str, mode: Literal["rb"] = "rb", *, version_id: str = "", block_size: int = ...
    ) -> ReadStream: ...
    @overload
    def open(self, path: str, mode: Literal["wb"], *, part_size: int = 0, **attributes: Any) -> WriteStream: ...
    def open(
        self,
        path: str,
        mode: str = "rb",
        *,
        version_id: str = "",
        block_size: int = BLOCK_BYTES,
        part_size: int = 0,
        **attributes: Any,
    ) -> ReadStream | WriteStream:
        """Open an object as a binary file: ``rb`` seeks and reads ahead, ``wb`` uploads while it is written to.

        ``attributes`` are those of an object that is written: ``content_type``, ``metadata`` and so on.
        """
        place = _object(path)
        if mode == "rb":
            return ReadStream(self._context(own_workers=False), place, version_id=version_id, block_size=block_size)
        if mode != "wb":
            raise UsageError(f"cannot open {path} with mode {mode!r}: there are rb and wb")
        given = ObjectAttributes(**attributes)
        context = self._context(own_workers=False, attributes=given, part_size=part_size)
        return WriteStream(context, place)

    # -- many objects ----------------------------------------------------------------------

    def get(self, source: str, target: str | os.PathLike[str], *, recursive: bool = False) -> Summary:
        """Bring an object, or with ``recursive`` all below a prefix, to a local file or directory.

        A file is there when it is whole and verified, and not before. Errors: as copy().
        """
        return self._transfer(parse_s3(source), LocalPath(os.fspath(target)), recursive)

    def put(
        self, source: str | os.PathLike[str], target: str, *, recursive: bool = False, **attributes: Any
    ) -> Summary:
        """Store a local file, or with ``recursive`` all files below a directory. Errors: as copy()."""
        return self._transfer(LocalPath(os.fspath(source)), parse_s3(target), recursive, attributes)

    def copy(self, source: str, target: str, *, recursive: bool = False, **attributes: Any) -> Summary:
        """Copy an object, or with ``recursive`` all below a prefix, inside the storage.

        Raises:
            S3PoolError: the first failure, when everything that could be done was done.
        """
        return self._transfer(parse_s3(source), parse_s3(target), recursive, attributes)

    def _transfer(
        self, source: Location, target: Location, recursive: bool, attributes: Mapping[str, Any] | None = None
    ) -> Summary:
        rules = SourceRules(recursive=recursive, glob=False)
        tasks = SourceTasks(self.client, [source], target, rules=rules)
        context = self._context(attributes=ObjectAttributes(**(attributes or {})))
        try:
            return _checked(run(tasks, context, on_outcome=_ignore))
        finally:
            context.executor.close()

    def delete(self, *paths: str, recursive: bool = False) -> int:
        """Delete objects, or with ``recursive`` all below prefixes or buckets; return how many went.

        One that does not exist is no error.
        """
        if recursive:
            entries = (entry for path in paths for entry in self.list(path, recursive=True))
            tasks = (DeleteTask(entry.bucket, entry.key) for entry in entries)
        else:
            tasks = (DeleteTask(place.bucket, place.key) for place in list(map(_object, paths)))
        context = self._context()
        try:
            return _checked(run_deletes(tasks, context, on_outcome=_ignore)).deleted
        finally:
            context.executor.close()

    def sync(self, source: str, target: str, **options: Any) -> Report:
        """Make a directory or prefix like another one; ``options`` are SyncOptions, such as ``delete=True``.

        The record of earlier runs is the command line's. The report tells in ``held_back`` why deletes were not
        made.

        Raises:
            S3PoolError: the first failure, when everything that could be done was done.
        """
        from s3pool.sync.compare import COPY
        from s3pool.sync.job import SyncOptions
        from s3pool.sync.pair import check_apart, choose_pair, paths_for
        from s3pool.sync.run import Sync
        from s3pool.transfer.resume import pool_of, state_directory

        route = choose_pair(_tree(source), _tree(target), glob=False)
        if route.direction == COPY:
            check_apart(route, self.client, self.client)
        directory = state_directory(os.environ)
        settings = SyncOptions(**options)
        pool = pool_of(self.config.endpoints, directory, read_only=settings.dry_run)
        state = paths_for(route, directory=directory, shard=settings.shard, pool=pool)
        context = self._context()
        work = Sync(route, context, replace(settings, state=state), list_pages=_pages_of_tree, on_outcome=_ignore)
        try:
            report = work.run()
        finally:
            context.executor.close()
        _checked(report.summary)
        return report


def _pages_of_tree(client: S3Client, tree: S3Path, within: Any, _in_order: bool) -> Any:
    start, until = within.bounds(tree.tree_prefix)
    return list_pages(client, tree.bucket, prefix=tree.tree_prefix, start_after=start, until=until)


def _object(path: str) -> S3Path:
    place = parse_s3(path)
    if not place.bucket or not place.key:
        raise UsageError(f"{path!r} names no object; write s3://BUCKET/KEY")
    return place


def _tree(path: str | os.PathLike[str]) -> Location:
    place = parse(os.fspath(path))
    if isinstance(place, StdStream):
        raise UsageError("- is a stream; sync takes trees")
    return place


def _checked(summary: Summary) -> Summary:
    """Return the summary of a run without failures, else raise the first of them."""
    errors = [
        *([summary.stopped_by] if summary.stopped_by is not None else []),
        *summary.errors,
        *summary.source_errors,
    ]
    if errors:
        raise errors[0]
    if summary.not_started:
        raise S3PoolError(f"{summary.not_started} objects were not transferred")
    return summary


def _ignore(_outcome: Outcome) -> None:
    """Take an outcome; the summary counts it."""
