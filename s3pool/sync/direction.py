"""From where to where: how names of a sync become tasks, in each of its three directions."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from s3pool.errors import UsageError
from s3pool.location import LocalPath, Location, S3Path, StdStream, has_glob
from s3pool.record import dataclass
from s3pool.sync.compare import COPY, DOWNLOAD, UPLOAD, Entry
from s3pool.transfer.safe_path import stat_below
from s3pool.transfer.tasks import CopyTask, DeleteTask, DownloadTask, Item, RemoveTask, Task, UploadTask

if TYPE_CHECKING:
    from s3pool.s3.client import S3Client


NOWHERE = S3Path("")


@dataclass(frozen=True, slots=True)
class SyncPair:
    """Source and target of a sync; one of them at least is in S3. Both are trees.

    ``root`` is the local side, where there is one; ``source`` and ``target`` are the sides in S3.
    """

    direction: str
    root: str = ""
    source: S3Path = NOWHERE
    target: S3Path = NOWHERE

    @property
    def source_text(self) -> str:
        """The source as messages name it."""
        return self.root if self.direction == UPLOAD else _tree_text(self.source)

    @property
    def target_text(self) -> str:
        """The target as messages name it."""
        return self.root if self.direction == DOWNLOAD else _tree_text(self.target)

    def target_of(self, name: str) -> str:
        """Return the target of one name as messages write it."""
        return os.path.join(self.root, name) if self.direction == DOWNLOAD else self.target.join(name).text

    def source_of(self, name: str) -> str:
        """Return the source of one name as messages write it."""
        return os.path.join(self.root, name) if self.direction == UPLOAD else self.source.join(name).text

    def transfer(self, entry: Entry, reason: str) -> Task:
        """Return the task that transfers one entry of the source."""
        if self.direction == UPLOAD:
            place = self.target.join(entry.name)
            return UploadTask(entry.path, place.bucket, place.key, entry.size, reason=reason, root=self.root)
        key = self.source.join(entry.name).key
        facts = entry.size, entry.etag, entry.last_modified, entry.version_id, reason
        if self.direction == DOWNLOAD:
            return DownloadTask(self.source.bucket, key, self.root, entry.name, *facts)
        place = self.target.join(entry.name)
        return CopyTask(self.source.bucket, key, place.bucket, place.key, *facts)

    def removal(self, name: str, size: int) -> DeleteTask | RemoveTask:
        """Return the task that deletes one name from the target."""
        if self.direction == DOWNLOAD:
            return RemoveTask(self.root, name, size)
        place = self.target.join(name)
        return DeleteTask(place.bucket, place.key, size=size)

    def name_of(self, task: Item) -> str | None:
        """Return the name that a task transfers or deletes; None for a Problem."""
        if isinstance(task, (DownloadTask, RemoveTask)):
            return task.relative
        if isinstance(task, (UploadTask, CopyTask, DeleteTask)):
            return task.key[len(self.target.tree_prefix) :]
        return None

    def find_target(self, name: str, client: S3Client) -> Entry | None:
        """Look for one name at the target, where its listing does not serve.

        Raises RefusedError: the local way leads through a link. S3Error: the request failed.
        """
        if self.direction == DOWNLOAD:
            facts = stat_below(self.root, name)
            if facts is None or not stat.S_ISREG(facts.st_mode):
                return None
            return Entry(name, facts.st_size, facts.st_mtime_ns, path=os.path.join(self.root, name))
        place = self.target.join(name)
        head = client.find_object(place.bucket, place.key)
        return head and Entry(name, head.size, etag=head.etag, last_modified=head.last_modified)

    def has_local_directory(self, name: str) -> bool:
        """Return whether the local side has a directory of this name, not through a link."""
        facts = stat_below(self.root, name)
        return facts is not None and stat.S_ISDIR(facts.st_mode)


def _tree_text(path: S3Path) -> str:
    return S3Path(path.bucket, path.tree_prefix).text


def choose_pair(source: Location, target: Location, *, glob: bool = True) -> SyncPair:
    """Return the pair of trees that two operands name.

    Raises UsageError: they make no sense together, or one of them is no tree.
    """
    for side in (source, target):
        if isinstance(side, StdStream):
            raise UsageError("sync takes trees, no streams; cp and pipe take -")
        if isinstance(side, S3Path) and not side.bucket:
            raise UsageError(f"{side.text} names no bucket; write s3/BUCKET/PREFIX")
        if isinstance(side, LocalPath) and os.path.exists(side.path) and not os.path.isdir(side.path):
            raise UsageError(f"{side.text} is no directory: sync takes trees, cp takes files")
    if isinstance(source, S3Path) and glob and has_glob(source.key):
        raise UsageError(f"{source.text} has wildcards: sync takes a whole tree; choose with --include and --exclude")
    if isinstance(source, LocalPath) and isinstance(target, S3Path):
        return SyncPair(UPLOAD, source.path, target=target)
    if isinstance(source, S3Path) and isinstance(target, LocalPath):
        return SyncPair(DOWNLOAD, target.path, source=source)
    if isinstance(source, S3Path) and isinstance(target, S3Path):
        return SyncPair(COPY, source=source, target=target)
    raise UsageError(f"{source.text} and {target.text} are both local: one side must be s3/BUCKET/PREFIX")


def check_apart(route: SyncPair, source_client: S3Client, target_client: S3Client) -> None:
    """Refuse trees that lie inside each other: one would grow or vanish by the other.

    Raises UsageError: they do, by whatever names, or are the same.
    """
    from s3pool.transfer.proofs import target_of_tree

    source, target = route.source, route.target
    is_one_bucket = source_client is target_client and source.bucket == target.bucket
    is_one_tree = is_one_bucket and source.tree_prefix == target.tree_prefix
    if is_one_tree or target_of_tree(source_client, source, target_client, target) is not None:
        both = f"{route.source_text} and {route.target_text}"
        raise UsageError(f"{both} are the same tree, or one lies inside the other")
