from __future__ import annotations

import os
from pathlib import Path

import pytest

from s3pool.model import ObjectAttributes, ObjectHead
from s3pool.transfer import metadata as stored


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "0"),
        (1_354_040_105_123_456_789, "1354040105.123456789"),
        (1_354_040_105_500_000_000, "1354040105.5"),
        (-1_500_000_000, "-1.5"),
        (1, "0.000000001"),
    ],
)
def test_mtime_goes_out_as_rclone_writes_it_and_comes_back(nanoseconds: int, text: str) -> None:
    """Other tools read the same metadata, and not a nanosecond is lost."""
    assert text == stored.format_mtime(nanoseconds)
    assert nanoseconds == stored.parse_mtime(text)


@pytest.mark.parametrize("text", ["", "yesterday", "1.2.3", "1e9", "1.x", "²", "1.²"])
def test_foreign_mtime_is_no_time(text: str) -> None:
    """Metadata may hold anything."""
    assert stored.parse_mtime(text) is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.html", "text/html"),
        ("a.JPG", "image/jpeg"),
        ("a.tar.gz", "application/gzip"),
        ("a.txt.xz", "application/x-xz"),
        ("noextension", "application/octet-stream"),
        ("a.unheardof", "application/octet-stream"),
    ],
)
def test_content_type_comes_from_the_name(name: str, expected: str) -> None:
    """A browser that opens the object shows it instead of saving it."""
    assert expected == stored.guess_content_type(name)


def test_what_the_user_gave_wins_over_what_the_file_tells(tmp_path: Path) -> None:
    """A flag is the last word."""
    path = tmp_path / "a.html"
    path.write_bytes(b"")
    given = ObjectAttributes(content_type="x/y", metadata={"mtime": "7"})

    headers = stored.FileHeaders(given, preserve=False).of(str(path), path.stat())

    assert {"content-type": "x/y", "x-amz-meta-mtime": "7"} == headers


def test_preserve_stores_mode_and_owner(tmp_path: Path) -> None:
    """The names and forms are rclone's."""
    path = tmp_path / "a"
    path.write_bytes(b"")
    path.chmod(0o640)

    headers = stored.FileHeaders(ObjectAttributes(), preserve=True).of(str(path), path.stat())

    told = [headers[f"x-amz-meta-{name}"] for name in ("mode", "uid", "gid")]
    assert ["0100640", str(os.getuid()), str(os.getgid())] == told


def test_restored_mode_never_sets_the_user_id(tmp_path: Path) -> None:
    """A bucket must not hand out set-user-id programs."""
    path = tmp_path / "a"
    fd = os.open(path, os.O_CREAT | os.O_RDWR)

    stored.restore_mode(fd, {"mode": "0104755"})
    os.close(fd)

    assert 0o755 == path.stat().st_mode & 0o7777


def head(**headers: str) -> ObjectHead:
    """Give what HEAD told of a source."""
    metadata = {"mtime": "5", "old": "1"}
    return ObjectHead(1, "2026-01-01T00:00:00.000Z", "e", "text/plain", "STANDARD", "", metadata, headers)


def test_copy_keeps_what_no_flag_replaces() -> None:
    """Changing the class must not lose the content type or the metadata."""
    merged = stored.merge_for_copy(ObjectAttributes(storage_class="COLD"), head(**{"cache-control": "no-store"}))

    assert ("text/plain", "no-store", "COLD") == (merged.content_type, merged.cache_control, merged.storage_class)
    assert {"mtime": "5", "old": "1"} == merged.metadata


def test_copy_replaces_metadata_as_a_whole_but_for_the_time() -> None:
    """Metadata that was given is all there is; the time belongs to the content."""
    merged = stored.merge_for_copy(ObjectAttributes(metadata={"new": "2"}), head())

    assert {"new": "2", "mtime": "5"} == merged.metadata
