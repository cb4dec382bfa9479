"""The pool as a filesystem of fsspec: ``s3pool://bucket/key`` for pandas, pyarrow, dask, zarr and data loaders.

Nothing of the storage is cached: what another program has written is seen at once. Directories are prefixes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any

from fsspec.callbacks import DEFAULT_CALLBACK
from fsspec.spec import AbstractFileSystem
from fsspec.utils import isfilelike

from s3pool.api import ListEntry, connect
from s3pool.errors import AccessDeniedError, NotFoundError, PreconditionError, S3Error
from s3pool.location import S3Path
from s3pool.model import parse_iso_time
from s3pool.streams import BLOCK_BYTES, ReadStream, WriteStream

OF_FSSPEC = ("use_listings_cache", "listings_expiry_time", "max_paths", "skip_instance_cache", "asynchronous", "loop")
OF_BUFFERED_FILES = ("cache_type", "size", "compression")  # what other filesystems' files take, and ours need not
MAX_RANGE_BYTES = 16 << 20  # that is read by one request; longer ones in blocks


class S3PoolFileSystem(AbstractFileSystem):  # type: ignore[misc]
    """A pool; the arguments are those of ``s3pool.connect()``, and without any its configuration."""

    protocol = ("s3pool",)
    cachable = True

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{name: options[name] for name in OF_FSSPEC if name in options})
        self.pool = connect(**{name: value for name, value in options.items() if name not in OF_FSSPEC})

    # -- names -----------------------------------------------------------------------------

    def ls(self, path: str, detail: bool = True, **_kwargs: Any) -> list[Any]:
        """List one level; a file lists itself."""
        place = self._place(path)
        with _os_errors(path):
            below = S3Path(place.bucket, place.key and f"{place.key}/")
            entries = [_info(entry) for entry in self.pool.list(below.text) if entry.key != below.key or not below.key]
            if not entries and place.key:
                entries = [self.info(path)]
                if entries[0]["type"] == "directory":
                    entries = []
        return entries if detail else [entry["name"] for entry in entries]

    def info(self, path: str, **_kwargs: Any) -> dict[str, Any]:
        """Return name, type, size, ETag and modification time of a file; of a directory that it is one."""
        place = self._place(path)
        with _os_errors(path):
            if place.is_root:
                return _directory("")
            if place.is_bucket:
                self.pool.client.head_bucket(place.bucket)
                return _directory(place.bucket)
            try:
                head = self.pool.head(place.text)
            except NotFoundError:
                page = self.pool.client.list_objects_page(place.bucket, prefix=f"{place.key}/", max_keys=1)
                if not page.objects:
                    raise
                return _directory(f"{place.bucket}/{place.key}")
        return _info(ListEntry(place.bucket, place.key, head.size, head.last_modified, head.etag, head.storage_class))

    def find(
        self, path: str, maxdepth: int | None = None, withdirs: bool = False, detail: bool = False, **kwargs: Any
    ) -> Any:
        """Return all files below a path, by one flat listing where no level is asked for."""
        if maxdepth is not None or withdirs or kwargs.get("prefix"):
            return super().find(path, maxdepth=maxdepth, withdirs=withdirs, detail=detail, **kwargs)
        place = self._place(path)
        with _os_errors(path):
            entries = self.pool.list(S3Path(place.bucket, place.key and f"{place.key}/").text, recursive=True)
            found = {info["name"]: info for info in map(_info, entries) if info["type"] == "file"}
            if not found and place.key and self.exists(path) and (own := self.info(path))["type"] == "file":
                found = {own["name"]: own}
        return found if detail else sorted(found)

    def modified(self, path: str) -> datetime:
        """Return when a file was last written."""
        return self.info(path)["LastModified"]  # type: ignore[no-any-return]

    created = modified

    def checksum(self, path: str) -> str:
        """Return the ETag of a file."""
        return str(self.info(path)["ETag"])

    def sign(self, path: str, expiration: float = 100, **_kwargs: Any) -> str:
        """Return a URL that works without keys for so many seconds."""
        return self.pool.presign(self._place(path).text, expires=expiration)

    # -- directories: buckets are, prefixes come and go with what is below them --------------

    def mkdir(self, path: str, create_parents: bool = True, **_kwargs: Any) -> None:  # noqa: ARG002
        """Make a bucket; below one there is nothing to make."""
        place = self._place(path)
        if place.key:
            return
        if self.exists(path):
            raise FileExistsError(path)
        with _os_errors(path):
            self.pool.client.create_bucket(place.bucket)

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Make a bucket, where there is none of this name."""
        place = self._place(path)
        if place.is_bucket and not (exist_ok and self.exists(path)):
            self.mkdir(path)

    def rmdir(self, path: str) -> None:
        """Remove an empty bucket; below one there is nothing to remove."""
        place = self._place(path)
        if place.is_bucket:
            with _os_errors(path):
                self.pool.client.delete_bucket(place.bucket)

    # -- contents --------------------------------------------------------------------------

    def _open(
        self,
        path: str,
        mode: str = "rb",
        block_size: int | None = None,
        autocommit: bool = True,
        cache_options: object = None,  # noqa: ARG002 - no cache is used
        **kwargs: Any,
    ) -> ReadStream | WriteStream:
        text = self._place(path).text
        words = {name: value for name, value in kwargs.items() if name not in OF_BUFFERED_FILES}
        with _os_errors(path):
            if mode == "rb":
                reader: ReadStream = self.pool.open(text, "rb", block_size=block_size or BLOCK_BYTES, **words)
                return reader
            if mode == "xb" and self.exists(path):
                raise FileExistsError(path)
            if mode not in ("wb", "xb"):
                raise NotImplementedError(f"objects are read, or written anew; there is no mode {mode!r}")
            stream = self.pool.open(text, "wb", **words)
        stream.waits = not autocommit
        return stream

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_kwargs: Any) -> bytes:
        """Return the bytes of a file from start to end; negative ones count from its end."""
        place = self._place(path)
        if start is None and end is None:
            with self._open(path) as stream:
                return stream.read()
        if (start or 0) < 0 or end is None or end < 0:
            start, end, _ = slice(start, end).indices(self.info(path)["size"])
        first = start or 0
        if end <= first:
            return b""
        with _os_errors(path):
            if end - first <= MAX_RANGE_BYTES:
                return self.pool.read_range(place.text, first, end)
            with self.pool.open(place.text) as stream:
                stream.seek(first)
                return stream.read(end - first)

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        """Store bytes as a file."""
        with self.open(path, "xb" if mode == "create" else "wb", **kwargs) as stream:
            stream.write(value)

    def cp_file(self, path1: str, path2: str, **_kwargs: Any) -> None:
        """Copy a file inside the storage."""
        with _os_errors(path1):
            try:
                self.pool.copy(self._place(path1).text, self._place(path2).text)
            except NotFoundError:
                if not self.isdir(path1):
                    raise

    def put_file(
        self, lpath: str, rpath: str, callback: Any = DEFAULT_CALLBACK, mode: str = "overwrite", **kwargs: Any
    ) -> None:
        """Store a local file; a directory is nothing to store."""
        if mode == "create" and self.exists(rpath):
            raise FileExistsError(rpath)
        if os.path.isdir(lpath):
            return
        with _os_errors(rpath):
            summary = self.pool.put(lpath, self._place(rpath).text, **kwargs)
        callback.set_size(summary.bytes)
        callback.relative_update(summary.bytes)

    def get_file(
        self, rpath: str, lpath: Any, callback: Any = DEFAULT_CALLBACK, outfile: Any = None, **kwargs: Any
    ) -> None:
        """Bring a file to a local one, which is there when it is whole and verified."""
        if outfile is not None or isfilelike(lpath):
            super().get_file(rpath, lpath, callback=callback, outfile=outfile, **kwargs)
            return
        with _os_errors(rpath):
            try:
                self.pool.head(self._place(rpath).text)
            except (NotFoundError, S3Error):
                if not self.isdir(rpath):
                    raise
                os.makedirs(lpath, exist_ok=True)
                return
            os.makedirs(os.path.dirname(os.path.abspath(lpath)), exist_ok=True)
            summary = self.pool.get(self._place(rpath).text, lpath)
        callback.set_size(summary.bytes)
        callback.relative_update(summary.bytes)

    def rm(self, path: Any, recursive: bool = False, maxdepth: int | None = None) -> None:
        """Remove files, with ``recursive`` what is below as well, and buckets whole."""
        if not recursive or maxdepth is not None:
            places = [self._place(each) for each in self.expand_path(path, recursive=recursive, maxdepth=maxdepth)]
            with _os_errors(path):
                self.pool.delete(*[place.text for place in places if place.key])
            return
        for top in self.expand_path(path):
            place = self._place(top)
            if not self.exists(top):
                raise FileNotFoundError(top)
            with _os_errors(top):
                self.pool.delete(place.text, recursive=True)
                if place.key:
                    self.pool.delete(place.text)
                else:
                    self.pool.client.delete_bucket(place.bucket)

    def rm_file(self, path: str) -> None:
        """Remove one file."""
        with _os_errors(path):
            self.pool.delete(self._place(path).text)

    _rm = rm_file

    def _place(self, path: str) -> S3Path:
        bucket, _, key = self._strip_protocol(path).partition("/")
        return S3Path(bucket, key)


def _directory(name: str) -> dict[str, Any]:
    return {"name": name, "size": 0, "type": "directory"}


def _info(entry: ListEntry) -> dict[str, Any]:
    name = f"{entry.bucket}/{entry.key}".rstrip("/")
    if not entry.is_object:
        return _directory(name)
    modified = datetime.fromtimestamp(parse_iso_time(entry.last_modified), timezone.utc)
    return {
        "name": f"{entry.bucket}/{entry.key}",
        "size": entry.size,
        "type": "file",
        "ETag": entry.etag,
        "LastModified": modified,
        "StorageClass": entry.storage_class,
    }


@contextmanager
def _os_errors(path: object) -> Iterator[None]:
    """Raise Python's own errors, which users of filesystems catch, from ours."""
    try:
        yield
    except NotFoundError as exc:
        raise FileNotFoundError(f"{path}: {exc}") from exc
    except AccessDeniedError as exc:
        raise PermissionError(f"{path}: {exc}") from exc
    except PreconditionError as exc:
        raise FileExistsError(f"{path}: {exc}") from exc
