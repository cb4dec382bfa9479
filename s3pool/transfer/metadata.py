"""What is stored beside the bytes: content type, modification time, mode, owner and tags."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from s3pool.model import ObjectAttributes, parse_iso_time, whole_number
from s3pool.record import replace
from s3pool.s3.requests import KMS_KEY_ID, METADATA_PREFIX, WEBSITE_REDIRECT, attribute_headers
from s3pool.s3.responses import ENCRYPTION
from s3pool.units import NANO, parse_http_date

if TYPE_CHECKING:
    from s3pool.model import ObjectHead
    from s3pool.s3.client import S3Client
    from s3pool.s3.operation import Steps
    from s3pool.transfer.tasks import CopyTask

logger = logging.getLogger(__name__)

MTIME = "mtime"  # x-amz-meta-mtime, as rclone writes it: seconds with a fraction
MTIME_HEADER = f"x-amz-meta-{MTIME}"
MODE = "mode"  # the three names of rclone's --metadata: octal mode, decimal ids
OWNER = "uid"
GROUP = "gid"
S3CMD = "s3cmd-attrs"
TAG_COUNT = "x-amz-tagging-count"
DEFAULT_CONTENT_TYPE = "application/octet-stream"
ENCODED_TYPES = {
    "gzip": "application/gzip",
    "bzip2": "application/x-bzip2",
    "xz": "application/x-xz",
    "compress": "application/x-compress",
    "br": "application/x-brotli",
}
ARCHIVES = ("GLACIER", "DEEP_ARCHIVE")
READABLE_CLASSES = ("STANDARD_IA", "ONEZONE_IA", "INTELLIGENT_TIERING", "GLACIER_IR", "REDUCED_REDUNDANCY")
KEPT_HEADERS = {
    **{f"content_{name}": f"content-{name}" for name in ("disposition", "encoding", "language")},
    "cache_control": "cache-control",
    "expires": "expires",
    "website_redirect": WEBSITE_REDIRECT,
}
STORED_TOLERANCE_NS = 1000  # a float in somebody's metadata keeps no more than microseconds
NANO_DIGITS = 9
KNOWN_DATES = 256
KNOWN_EXTENSIONS = 256
PERMISSION_BITS = 0o777
NO_ID = (1 << 32) - 1  # chown's word for none


def guess_content_type(name: str) -> str:
    """Return a content type by the extension of a name."""
    return _type_of_extension(os.path.splitext(name)[1].lower())


@functools.lru_cache(maxsize=KNOWN_EXTENSIONS)
def _type_of_extension(extension: str) -> str:
    import mimetypes

    kind, encoding = mimetypes.guess_type(f"x{extension}")
    if encoding:  # x.tar.gz is gzip's bytes, whatever is in them
        return ENCODED_TYPES.get(encoding, DEFAULT_CONTENT_TYPE)
    return kind or DEFAULT_CONTENT_TYPE


def format_mtime(nanoseconds: int) -> str:
    """Write a time as seconds since 1970 with as much fraction as it has."""
    seconds, fraction = divmod(abs(nanoseconds), NANO)
    text = f"{seconds}.{fraction:09}".rstrip("0") if fraction else str(seconds)
    return f"-{text}" if nanoseconds < 0 else text


def parse_mtime(text: str) -> int | None:
    """Read what format_mtime, rclone or s3fs wrote, in nanoseconds; None for anything else."""
    sign = -1 if text.startswith("-") else 1
    whole, _, fraction = text.removeprefix("-").partition(".")
    seconds = whole_number(whole)
    rest = whole_number(fraction[:NANO_DIGITS].ljust(NANO_DIGITS, "0"))
    if seconds is None or rest is None:
        return None
    return sign * (seconds * NANO + rest)


def set_mtime(fd: int, mtime_ns: int | None) -> int | None:
    """Set a file's modification time, and return what the file system has made of it; None without one.

    File systems cut to whole seconds or less and clamp what is out of their range, and some
    keep no time at all: whoever compares later must know what there is.
    """
    if mtime_ns is None:
        return None
    try:
        os.utime(fd, ns=(mtime_ns, mtime_ns))
    except (OSError, OverflowError) as exc:
        logger.debug("a modification time cannot be set: %s", exc)
    return os.fstat(fd).st_mtime_ns


def stored_time(head: ObjectHead) -> int | None:
    """Return the stored modification time in nanoseconds; None where there is none."""
    return parse_mtime(head.metadata.get(MTIME, ""))


def mtime_of(head: ObjectHead) -> float:
    """Return the stored modification time in nanoseconds, else Last-Modified; NaN where that is no time."""
    told = stored_time(head)
    return told if told is not None else parse_iso_time(head.last_modified) * NANO


def mtime_of_answer(headers: Mapping[str, str]) -> int | None:
    """Return the stored modification time in nanoseconds, else Last-Modified."""
    told = headers.get(MTIME_HEADER)
    mtime_ns = parse_mtime(told) if told else None
    return _nanoseconds_of(headers.get("last-modified", "")) if mtime_ns is None else mtime_ns


@functools.lru_cache(maxsize=KNOWN_DATES)  # small objects that lie together were mostly stored in the same few seconds
def _nanoseconds_of(http_date: str) -> int | None:
    modified = parse_http_date(http_date)
    return None if modified is None else round(modified) * NANO


class FileHeaders:
    """The headers that store what the user gave, and what a file tells where nothing was given. Safe in any thread.

    Most is alike for all files with one extension, and is remembered.
    """

    def __init__(self, given: ObjectAttributes, *, preserve: bool) -> None:
        self._given = given
        self._preserve = preserve
        self._alike: dict[str, dict[str, str]] = {}

    def of(self, path: str, facts: os.stat_result) -> dict[str, str]:
        """Return the headers for one file. Raises UsageError: what the user gave cannot stand in a header."""
        stem, _, extension = path.rpartition("/")[2].rpartition(".")
        if not stem.strip("."):  # as with os.path.splitext: dots at the beginning make no extension
            extension = ""
        alike = self._alike.get(extension)
        if alike is None:
            content_type = self._given.content_type or guess_content_type(f"x.{extension}")
            alike = attribute_headers(replace(self._given, content_type=content_type))
            if len(self._alike) >= KNOWN_EXTENSIONS:  # where each name ends in a number of its own
                self._alike.clear()
            self._alike[extension] = alike
        headers = dict(alike)
        headers.setdefault(MTIME_HEADER, format_mtime(facts.st_mtime_ns))
        if self._preserve:
            kept = {MODE: f"{facts.st_mode:07o}", OWNER: str(facts.st_uid), GROUP: str(facts.st_gid)}
            for name, value in kept.items():
                headers.setdefault(METADATA_PREFIX + name, value)
        return headers


def merge_for_copy(given: ObjectAttributes, head: ObjectHead) -> ObjectAttributes:
    """Replace what the user gave, keep the rest of the source; metadata is replaced as a whole."""
    metadata = dict(given.metadata or head.metadata)
    if given.metadata and MTIME in head.metadata:
        metadata.setdefault(MTIME, head.metadata[MTIME])
    kept: dict[str, Any] = {n: getattr(given, n) or head.headers.get(header, "") for n, header in KEPT_HEADERS.items()}
    return replace(given, content_type=given.content_type or head.content_type, metadata=metadata, **kept)


def kept_by_request(task: CopyTask, head: ObjectHead) -> ObjectAttributes:
    """Return what a copy keeps only when its request says it.

    Into another bucket only classes go that every store has that has them at all, and no encryption: keys are of a
    region, and the other bucket has a rule of its own. What was archived becomes an ordinary object.

    Source: Amazon S3 API Reference, "CopyObject".
    """
    headers, storage_class, in_bucket = head.headers, head.storage_class, task.source_bucket == task.bucket
    is_known = storage_class in READABLE_CLASSES or (in_bucket and storage_class not in ARCHIVES)
    encryption = headers.get(ENCRYPTION, "") if in_bucket else ""
    key = headers.get(KMS_KEY_ID, "")
    return ObjectAttributes(
        website_redirect=headers.get(WEBSITE_REDIRECT, ""),
        storage_class=storage_class if is_known and storage_class != "STANDARD" else "",
        sse=f"{encryption}:{key}" if key and encryption == "aws:kms" else encryption,
    )


def stored_mode(metadata: Mapping[str, str]) -> int | None:
    """Return the stored mode of a file, with its type where that was told; None without one."""
    text = metadata.get(MODE, "")
    if text and not text.strip("01234567"):
        return int(text, base=8)
    return whole_number(_of_s3cmd(metadata).get(MODE, ""))


def _of_s3cmd(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return what s3cmd stores in one header: ``uid:1000/mode:33188/...``, numbers in decimal."""
    words = (word.partition(":") for word in metadata.get(S3CMD, "").split("/"))
    return {name: value for name, _, value in words}


def restore_mode(fd: int, metadata: Mapping[str, str]) -> None:
    """Set the stored permission bits of a file, and its owner where the system allows.

    Source: rclone's metadata of the local backend (mode, uid, gid), and s3cmd's one header.
    """
    mode = stored_mode(metadata)
    if mode is not None:
        os.fchmod(fd, mode & PERMISSION_BITS)
    told = {**_of_s3cmd(metadata), **metadata}
    owner, group = (whole_number(told.get(name, "")) for name in (OWNER, GROUP))
    if owner is None or group is None or max(owner, group) >= NO_ID or os.geteuid():
        return
    with contextlib.suppress(OSError):  # an id that this system, or its file system, does not have
        os.fchown(fd, owner, group)


def tags_of_source(task: CopyTask, head: ObjectHead, client: S3Client) -> Steps[Mapping[str, str]]:
    """Return the tags of a copy's source, asking for them only when HEAD told of some."""
    if head.headers.get(TAG_COUNT, "0") == "0":
        return {}
    tags = yield from client.get_tags.steps(task.source_bucket, task.source_key, version_id=task.version_id)
    return tags
