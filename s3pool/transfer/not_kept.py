"""What an object cannot hold of a file: counted in runs that are to keep everything."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Iterator, Mapping

from s3pool.location import S3Path
from s3pool.transfer import attributes as stored
from s3pool.transfer.tasks import UploadTask
from s3pool.transfer.walk import LINK

LINKS = "links"
SKIPPED_LINKS = "skipped_links"
HARD_LINKS = "hard_links"
ATTRIBUTES = "attributes"
DIRECTORIES = "directories"
# In the words of a summary, for one and for many.
WORDS = {
    LINKS: ("symbolic link (stored as the file)", "symbolic links (stored as the files)"),
    SKIPPED_LINKS: ("skipped symbolic link", "skipped symbolic links"),
    HARD_LINKS: ("hard link (stored as a file)", "hard links (stored as files)"),
    ATTRIBUTES: ("file's extended attributes", "files' extended attributes"),
    DIRECTORIES: ("empty directory", "empty directories"),
}
MAX_DIRECTORIES = 100_000  # remembered until the end of a run; more are counted
DIRECTORY_TYPE = "application/x-directory"  # as s3cmd, rclone and AWS's console store them


class NotKept:
    """The counts of a run, and the empty directories that are to be stored at its end. For many threads."""

    def __init__(self) -> None:
        # Guards the counts: workers add to them.
        self._lock = threading.Lock()
        self.counts = dict.fromkeys(WORDS, 0)
        self.directories: list[UploadTask] = []

    def count(self, kind: str) -> None:
        """Count one more."""
        with self._lock:
            self.counts[kind] += 1

    def directory(self, path: str, bucket: str, key: str) -> None:
        """Remember an empty directory, and what it is to be stored as."""
        if len(self.directories) < MAX_DIRECTORIES:
            self.directories.append(UploadTask(path, bucket, key))
        else:
            self.count(DIRECTORIES)

    def teller(self, root: str, target: S3Path) -> Callable[[str, bytes], object]:
        """Return what a walk tells of what it leaves out; an empty directory is stored below the target."""

        def tell(kind: str, relative: bytes) -> None:
            if kind == LINK:
                self.count(SKIPPED_LINKS)
            else:
                key = target.tree_prefix + relative.decode("utf-8", "surrogateescape")
                self.directory(os.path.join(root, os.fsdecode(relative)), target.bucket, key)

        return tell

    def look_at_file(self, fd: int, path: str) -> None:
        """Count what a file that is sent has beside its bytes."""
        if os.fstat(fd).st_nlink > 1:
            self.count(HARD_LINKS)
        if os.path.islink(path):
            self.count(LINKS)
        try:
            names = os.listxattr(fd)
        except (OSError, AttributeError):
            return
        if any(name.startswith("user.") for name in names):
            self.count(ATTRIBUTES)

    def look_at_object(self, metadata: dict[str, str]) -> None:
        """Count an object that another program stored for a link."""
        mode = stored.stored_mode(metadata)
        if mode is not None and stat.S_ISLNK(mode):
            self.count(LINKS)

    def words(self) -> Iterator[str]:
        """Yield what was not kept, for people."""
        yield from words_of(self.counts)


def words_of(counts: Mapping[str, int]) -> Iterator[str]:
    """Yield what was not kept, for people."""
    for kind, (one, many) in WORDS.items():
        if number := counts[kind]:
            yield f"{number} {one if number == 1 else many}"
