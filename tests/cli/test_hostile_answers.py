"""A server may say anything in any field: each command ends with a line, and none with an exception of Python's."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.fake_s3 import FakeS3, Reply, Rewrite
from tests.support.run_cli import CliResult

Call = Callable[..., CliResult]
IMPATIENT = ("--retries", "0", "--connect-timeout", "1", "--read-timeout", "2")
VALUES = [
    "",
    "9" * 30,
    "9" * 5000,
    "-1",
    "1e999",
    "nan",
    "\u00b2",
    "0000-00-00T00:00:00.000Z",
    "9999-99-99T99:99:99.999Z",
    "Mon, 00 Jan 0000 00:00:00 GMT",
    "%00%ff%ED%A0%80",
    "../../x",
    "&#x1;&#xD7FF;",
    "a\tb=c&;,\"'-5",
]
ELEMENTS = [
    "LastModified",
    "Size",
    "ETag",
    "StorageClass",
    "Key",
    "IsTruncated",
    "MaxKeys",
    "KeyCount",
    "Prefix",
    "Initiated",
    "UploadId",
    "PartNumber",
    "CreationDate",
    "VersionId",
    "IsLatest",
    "EncodingType",
    "NextKeyMarker",
    "Name",
    "Value",
    "ID",
]
HEADERS = [
    "Last-Modified",
    "ETag",
    "Date",
    "Content-Type",
    "Content-Encoding",
    "Content-Range",
    "Accept-Ranges",
    "x-amz-meta-mtime",
    "x-amz-meta-mode",
    "x-amz-meta-uid",
    "x-amz-meta-s3pool-part-size",
    "x-amz-version-id",
    "x-amz-restore",
    "x-amz-expiration",
    "x-amz-mp-parts-count",
    "x-amz-tagging-count",
    "x-amz-storage-class",
    "x-amz-checksum-crc32",
    "x-amz-checksum-type",
    "x-amz-server-side-encryption",
    "x-amz-object-lock-retain-until-date",
    "Expires",
    "Retry-After",
    "Server",
]
COMMANDS = [
    "ls",
    "ls -r -l s3/b/",
    "ls --versions --json s3/b",
    "ls --incomplete s3/b",
    "stat s3/b/p/k",
    "stat --json s3/b/p/k",
    "stat --versions s3/b/p/k",
    "du -d 1 s3/b",
    "find s3/b --older-than 1d --larger 1",
    "cat s3/b/p/k",
    "cp -r --preserve s3/b/p down",
    "cp s3/b/p/k one",
    "cp -u s3/b/p/k one",
    "sync s3/b/p down",
    "sync --checksum s3/b/p down",
    "sync --exact-timestamps up s3/b/up",
    "sync -u s3/b/p s3/b/q",
    "cp --part-size 5M s3/b/large s3/b/copied",
    "cp --metadata a=b s3/b/p/k s3/b/r",
    "mv s3/b/q/k moved",
    "rm -r --force --older-than 1d s3/b/none",
    "rm -r --force --incomplete --older-than 1d s3/b/",
]
STEP = 11  # each value meets a few of the commands, each command a few of the values
OF_PYTHON = re.compile(r"Traceback|\b(Overflow|Value|Type|Key|Index|Attribute|Recursion|Assertion|Unicode\w+)Error\b")


def plant(fake: FakeS3, tmp_path: Path) -> None:
    """Store a few objects, a version, and an unfinished upload; make one file."""
    fake.store.buckets.clear()
    for key in ("p/k", "p/d/k2", "q/k"):
        fake.store.add("b", key, b"kept", mtime=1_500_000_000)
    fake.store.add("b", "large", b"x" * (6 << 20), mtime=1_500_000_000)
    fake.store.add("b", "up/f", b"kept", mtime=1_500_000_000)
    (tmp_path / "up").mkdir(exist_ok=True)
    (tmp_path / "up" / "f").write_bytes(b"kept")
    for name in ("down", "one", "moved"):
        path = tmp_path / name
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)


def element_fault(name: str, value: str) -> Rewrite:
    """Return the fault that every element of a name says something else."""
    pattern = re.compile(rb"<%b>[^<]*</%b>" % (name.encode(), name.encode()))
    new = f"<{name}>{value}</{name}>".replace("&;", "&amp;;").encode()
    return Rewrite(lambda reply: replace(reply, body=pattern.sub(lambda _: new, reply.body)))


def header_fault(name: str, value: str) -> Rewrite:
    """Return the fault that a header says something else."""

    def change(reply: Reply) -> Reply:
        kept = {word: text for word, text in reply.headers.items() if word.lower() != name.lower()}
        return replace(reply, headers={**kept, name: value})

    return Rewrite(change)


@pytest.mark.parametrize("field", [*ELEMENTS, *HEADERS])
def test_nothing_that_a_server_says_ends_a_command_with_an_exception(
    fake: FakeS3, call: Call, tmp_path: Path, field: str
) -> None:
    """Each field in turn says nothing, too much, or what no calendar and no file system knows."""
    for number, value in enumerate(VALUES):
        fault = element_fault(field, value) if field in ELEMENTS else header_fault(field, value)
        for command in COMMANDS[(number + len(field)) % STEP :: STEP]:
            fake.script.clear()
            plant(fake, tmp_path)
            fake.fault(fault, op="*", times=0)
            done = call(*command.split(), *IMPATIENT)
            assert OF_PYTHON.search(done.err) is None, (field, value[:40], command, done.err[-2000:])
            assert done.code in range(7), (field, value[:40], command, done.code)
            assert list(tmp_path.rglob(".s3pool-*")) == []
