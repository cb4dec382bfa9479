"""What is proved before anything is lost: that two names are two objects, and that a move's target is what was read.

One object may go by two names (tenants and access points, a store behind two host names, servers to whom ``a//k`` is
``a/k``). The answer to a copy is a promise: HEAD of the target tells whether it was kept, HEAD of the source whether it
is still what was read, and another object than the one that was just written: only what the copy changed can tell.
"""

from __future__ import annotations

import math
import os
import stat
import unicodedata
from collections.abc import Callable
from contextlib import suppress
from hashlib import blake2b
from itertools import islice
from socket import gethostname
from typing import TYPE_CHECKING
from urllib.parse import unquote

from s3pool.body import EMPTY_BODY, EMPTY_SHA256
from s3pool.errors import (
    IntegrityError,
    LocalNotFoundError,
    NotFoundError,
    PreconditionError,
    RefusedError,
    S3Error,
    StoppedError,
    TargetTakenError,
    TransportError,
    may_have_acted,
)
from s3pool.location import S3Path
from s3pool.model import parse_iso_time
from s3pool.s3.operation import Steps, in_worker
from s3pool.transfer.safe_path import (
    OPEN_FLAGS,
    directory_below,
    local_error,
    open_below,
    open_root,
    split_relative,
    sync_to_disk,
)
from s3pool.transfer.tasks import CopyTask, Done, DownloadTask, FileStamp, ObjectStamp, UploadTask

if TYPE_CHECKING:
    from s3pool.model import ObjectHead
    from s3pool.s3.client import S3Client
    from s3pool.transfer.context import TransferContext

PROBES = 3  # objects that must be the same: one alone could be so by chance
PROBE_NAME_BYTES = 8
UNUSUAL = ("", ".", "..")
DELETE_ATTEMPTS = 4  # each of them after a look of its own
NEXT_SECOND_S = 1.1  # after this long a new Last-Modified is another one, also where it has whole seconds
NO_VERSION = ("", "null")  # what buckets without versions call the only one
FIRST_SERVER_ERROR = 500
MAX_SYNCED = 10_000  # directories that are known to be on the disk; memory must not grow with the tree
MAX_LINKED = 10_000  # files that lost a name to this run and have others; one that is forgotten stays

Moved = UploadTask | DownloadTask | CopyTask
Place = tuple[str, str]  # bucket and key
CopyAgain = Callable[["CopyTask", "TransferContext"], Steps[Done]]


def folded(key: str) -> list[str]:
    """Return what is left of a key on the least particular of servers, whose keys are names of files."""
    kept: list[str] = []
    for step in unicodedata.normalize("NFKC", unquote(key)).casefold().replace("\\", "/").split("/"):
        if step == "..":
            del kept[-1:]
        elif step := step.rstrip(". "):
            kept.append(step)
    return kept


def target_of_tree(source_client: S3Client, source: S3Path, target_client: S3Client, target: S3Path) -> str | None:
    """Return where the source tree lies in the target's bucket, as the target spells it.

    None when neither tree lies inside the other: they are apart, or one and the same.
    """
    place = _place_of(source.tree_prefix, target.tree_prefix)
    if place is None:
        return None
    is_plain = source_client is target_client and source.bucket == target.bucket and place == source.tree_prefix
    if is_plain or _shows(source_client, source, target_client, S3Path(target.bucket, place)):
        return place
    return None


def _place_of(source: str, target: str) -> str | None:
    """Return the source's prefix as the target spells it; None when neither lies inside the other."""
    ours, theirs = folded(source), folded(target)
    if len(ours) < len(theirs) and theirs[: len(ours)] == ours:
        return _start_of(target, ours)
    if len(theirs) < len(ours) and ours[: len(theirs)] == theirs:
        return target + source[len(_start_of(source, theirs)) :]
    return None


def _start_of(prefix: str, steps: list[str]) -> str:
    """Return the shortest beginning of a prefix that means these steps."""
    if not steps:
        return ""
    ends = (place + 1 for place, char in enumerate(prefix) if char == "/")
    return next((prefix[:end] for end in ends if folded(prefix[:end]) == steps), prefix)


def _shows(source_client: S3Client, source: S3Path, target_client: S3Client, place: S3Path) -> bool:
    """Return whether objects of a source are found at a place as well, as the same ones."""
    start = len(source.tree_prefix)
    try:
        page = source_client.list_objects_page(source.bucket, prefix=source.tree_prefix, max_keys=PROBES)
        infos = list(islice(page.objects, PROBES))
        heads = (target_client.head_object(place.bucket, place.key + info.key[start:]) for info in infos)
        return bool(infos) and all(
            (info.size, info.etag, int(info.mtime)) == (head.size, head.etag, int(head.mtime))
            for info, head in zip(infos, heads, strict=True)
        )
    except S3Error:  # what is wrong is told by the work itself
        return False


def check_spelling(task: CopyTask, context: TransferContext) -> None:
    """Refuse to copy a key that the target's store would take for another source's.

    Raises TargetTakenError: it would.
    """
    twin = plain_key(task.source_key)
    kinds = frozenset(step for step in task.key.split("/")[:-1] if step in UNUSUAL)
    if twin == task.source_key or not kinds:
        return
    with context.spellings_lock:
        if kinds not in context.merged_spellings:
            context.merged_spellings[kinds] = _does_merge(context.client, task)
        if not context.merged_spellings[kinds]:
            return
        first = context.spelling_owners.setdefault(plain_key(task.key), task.source)
    if first == task.source and (
        context.source.client.exists(task.source_bucket, twin)
        # Or was another source, that has moved by now.
        or (context.options.remove_source and context.client.exists(task.bucket, plain_key(task.key)))
    ):
        first = S3Path(task.source_bucket, twin).text
    if first != task.source:
        raise TargetTakenError(f"{task.source} and {first} would both be {task.target}: the other one stays")


def plain_key(key: str) -> str:
    """Return a key as a store spells it whose keys are names of files."""
    kept: list[str] = []
    *above, name = key.split("/")
    for step in above:
        if step == "..":
            del kept[-1:]
        elif step not in UNUSUAL:
            kept.append(step)
    return "/".join((*kept, name))


def _does_merge(client: S3Client, task: CopyTask) -> bool:
    """Return whether an object that is put by one spelling is there by the plain one."""
    # Named by the machine: the next run here finds what a killed one has left, and no other run's.
    name = blake2b(gethostname().encode(), digest_size=PROBE_NAME_BYTES).hexdigest()
    probe = f"{task.key.rpartition('/')[0]}/.s3pool-{name}.probe"
    with suppress(S3Error):
        left = client.head_object(task.bucket, probe)
        client.delete_object(task.bucket, probe, version_id=left.version_id)
    try:
        result = client.put_object(task.bucket, probe, EMPTY_BODY, payload_hash=EMPTY_SHA256)
    except S3Error:  # what it does not take at all the copy itself will be told
        return False
    try:
        return client.exists(task.bucket, plain_key(probe))
    finally:
        client.delete_object(task.bucket, probe, version_id=result.version_id)


# -- the end of a move ----------------------------------------------------------------------


def remove_source(task: Moved, done: Done, context: TransferContext, *, copy_again: CopyAgain) -> Steps[None]:
    """Remove what was moved, now that the target is there and was checked; ``copy_again`` copies an object once more.

    Raises IntegrityError: the target is not what was stored, the source is not what was read, or they are one object.
    LocalFileError: a file cannot be removed, or did not reach the disk.
    """
    try:
        yield from _prove_and_remove(task, done, context, copy_again)
    except S3Error as exc:
        if exc.status < FIRST_SERVER_ERROR:
            advice = f"{exc.advice}; " if exc.advice else ""
            exc.hint = f"{advice}{task.source} was copied to {task.target}, and stays"
        raise


def _prove_and_remove(task: Moved, done: Done, context: TransferContext, copy_again: CopyAgain) -> Steps[None]:
    if isinstance(task, UploadTask):
        yield from _check_target(task, done, context.client)
        _remove_file(task, done, context)
        return
    read = done.read or ObjectStamp(task.etag, task.last_modified, task.version_id)
    if isinstance(task, DownloadTask):
        yield from in_worker()  # the disk takes its time
        _check_file(task, done, context)
        client, place = context.client, (task.bucket, task.key)
        head = yield from client.find_object.steps(*place)
    else:
        head = yield from _check_apart(task, done, context, read=read, copy_again=copy_again)
        client, place = context.source.client, (task.source_bucket, task.source_key)
    yield from _delete(task, client, place, read=read, head=head)


def _stays(task: Moved, why: str) -> IntegrityError:
    return IntegrityError(f"{task.source} was copied to {task.target}, and stays: {why}")


def _check_target(task: UploadTask | CopyTask, done: Done, client: S3Client) -> Steps[ObjectHead]:
    try:
        head = yield from client.head_object.steps(task.bucket, task.key)
        if done.version_id not in NO_VERSION and head.version_id != done.version_id:
            # Another client's version is on top of it, which destroys nothing.
            head = yield from client.head_object.steps(task.bucket, task.key, version_id=done.version_id)
    except NotFoundError as exc:
        raise _stays(task, "there is nothing at the target") from exc
    if head.size != done.size or (done.etag and _bare(head.etag) != _bare(done.etag)):
        found = f"the target has {head.size} bytes and the ETag {head.etag}"
        raise _stays(task, f"{found}, and not {done.size} and {done.etag} as stored")
    return head


def _bare(etag: str) -> str:
    return etag.removeprefix("W/").strip('"')


def _check_file(task: DownloadTask, done: Done, context: TransferContext) -> None:
    """See to it that a file and the way to it are on the disk; its bytes are since it has its name."""
    parents, name = split_relative(task.relative)
    steps = [*parents, name] if done.written is None and name else parents
    directories: list[int] = []
    try:
        directories.append(open_root(task.root, create=False))
        for step in steps:
            directories.append(open_below(directories[-1], [step], create=False))
        if done.written is not None:
            facts = os.stat(name, dir_fd=directories[-1], follow_symlinks=False)
            if FileStamp.of(facts)[:-1] != done.written[:-1]:  # a new link to it changes no byte
                raise _stays(task, "there is another file at the target")
        sync_to_disk(directories[-1])
        place: tuple[str | bytes, ...] = (task.root, *steps)
        if place not in context.synced:
            _sync_way(directories[-2::-1], task.root, context)
            context.synced.update((place, place[:1]))
    except RefusedError as exc:
        raise _stays(task, exc.message) from exc
    except OSError as exc:
        raise local_error("write to disk", task.target, exc) from exc
    finally:
        for directory in directories:
            os.close(directory)


def _sync_way(directories: list[int], root: str, context: TransferContext) -> None:
    """Sync directories up to the root, and those above it, which may be new as well; those of others are theirs."""
    for directory in directories:
        sync_to_disk(directory)
    is_known = (root,) in context.synced
    if len(context.synced) >= MAX_SYNCED:
        context.synced.clear()
    above = os.path.realpath(root or ".")
    while not is_known and os.path.dirname(above) != above:
        above = os.path.dirname(above)
        try:
            directory = os.open(above, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            return
        try:
            sync_to_disk(directory)
        finally:
            os.close(directory)


def _check_apart(
    task: CopyTask, done: Done, context: TransferContext, *, read: ObjectStamp, copy_again: CopyAgain
) -> Steps[ObjectHead | None]:
    """Check the target of a copy, and that it is another object than the source; return the source's head.

    What a copy wrote has a new time and version, which the source has too if it is the same
    object. Where a source is of the very second of its copy, the copy is made once more.
    """
    is_one_bucket = not context.is_cross_pool and task.source_bucket == task.bucket
    # No server takes these names for one object: the target did not exist before, or they differ however read.
    must_be_two = context.options.no_clobber or (is_one_bucket and folded(task.source_key) != folded(task.key))
    for is_last in (False, True):
        target = yield from _check_target(task, done, context.client)
        source = yield from context.source.client.find_object.steps(task.source_bucket, task.source_key)
        if source is None or must_be_two:
            return source
        have_versions = all(head.version_id not in NO_VERSION for head in (source, target))
        if have_versions and source.version_id != target.version_id:
            return source
        if not have_versions and (source.etag, source.last_modified) != (target.etag, target.last_modified):
            return source
        if is_last or have_versions or not _is_as_read(source, done.read or read):
            break
        yield from in_worker()
        if context.stop.wait(NEXT_SECOND_S):
            raise StoppedError("stopped before the end")
        done = yield from copy_again(task, context)
        if done.skipped:  # by a rule such as --update: the target is no older than the source
            break
    raise _stays(task, "it seems to be the same object by another name")


def _delete(
    task: DownloadTask | CopyTask, client: S3Client, place: Place, *, read: ObjectStamp, head: ObjectHead | None
) -> Steps[None]:
    """Delete an object if it still is what was read, as ``head`` has just told.

    A delete without a clear answer is not sent again blindly: another client may have put a
    new object since. In a bucket with versions a delete marker hides the object, as after any
    other delete; a marker that came to hide a newer version is taken away again.
    """
    for attempt in range(1, DELETE_ATTEMPTS + 1):
        if head is None:
            return
        if not _is_as_read(head, read):
            raise _stays(task, "it changed since it was read")
        try:
            yield from client.delete_object.steps(*place, if_match=head.etag)
        except PreconditionError as exc:
            raise _stays(task, "it changed since it was read") from exc
        except (S3Error, TransportError) as exc:
            if attempt == DELETE_ATTEMPTS or not may_have_acted(exc):
                raise
            head = yield from client.find_object.steps(*place)
        else:
            if head.version_id not in NO_VERSION:
                yield from _unhide(task, client, place, head.version_id)
            return


def _unhide(task: DownloadTask | CopyTask, client: S3Client, place: Place, version_id: str) -> Steps[None]:
    """Take a delete marker away that hides another version than the one that was read."""
    bucket, key = place
    try:
        page = yield from client.list_versions_page.steps(bucket, prefix=key, max_keys=2)
    except S3Error:  # without leave to list versions: none of them is lost
        return
    versions = [version for version in page.objects if version.key == key]
    if len(versions) < 2 or versions[1].is_delete_marker or versions[1].version_id == version_id:
        return
    if versions[0].is_delete_marker:
        yield from client.delete_object.steps(bucket, key, version_id=versions[0].version_id)
        raise _stays(task, "it changed since it was read")


def _is_as_read(head: ObjectHead, read: ObjectStamp) -> bool:
    if not read.etag or _bare(head.etag) != _bare(read.etag):
        return False
    if read.version_id and head.version_id and read.version_id != head.version_id:
        return False
    if read.last_modified == head.last_modified:
        return True
    before, now = parse_iso_time(read.last_modified), parse_iso_time(head.last_modified)
    if math.isnan(before):
        return False  # nobody knows the time, and now it is another one
    # A listing tells fractions, and HEAD leaves them out or rounds them.
    return int(before) == now or (int(before) != before and int(before) + 1 == now)


def _remove_file(task: UploadTask, done: Done, context: TransferContext) -> None:
    """Remove a file if it still is the one that was read; of a link that was followed, the link."""
    root = task.root or os.path.dirname(task.path)
    *parents, name = os.fsencode(task.path[len(root) :].lstrip("/")).split(b"/")
    try:
        with directory_below(root, parents) as directory:
            if not _unlink_as_sent(name, directory, done.sent, context):
                raise _stays(task, "it changed since it was read")
    except (FileNotFoundError, LocalNotFoundError):
        return  # another one has removed it
    except RefusedError as exc:
        raise _stays(task, exc.message) from exc
    except OSError as exc:
        raise local_error("remove", task.path, exc) from exc


def _unlink_as_sent(name: bytes, directory: int, sent: FileStamp | None, context: TransferContext) -> bool:
    """Remove a name if what it means is as it was sent; return whether it was."""
    try:
        now = os.stat(name, dir_fd=directory)
    except FileNotFoundError:
        if not stat.S_ISLNK(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
            raise
        os.unlink(name, dir_fd=directory)  # a link whose target was moved before it holds nothing
        return True
    if now.st_nlink > 1 or FileStamp.of(now) != sent:
        with context.links_lock:
            return sent is not None and _unlink_one_of_many(name, directory, sent, context.links)
    os.unlink(name, dir_fd=directory)
    return True


def _unlink_one_of_many(name: bytes, directory: int, sent: FileStamp, links: dict[tuple[int, int], list[int]]) -> bool:
    """Remove a name of a file that has others, or had them.

    The removal of one name changes the ctime of the file: what this run has made of it is no edit.
    """
    file = os.open(name, OPEN_FLAGS, dir_fd=directory)
    try:
        stamp = FileStamp.of(os.fstat(file))
        inode = (stamp.device, stamp.inode)
        times = links.get(inode, [stamp.ctime_ns])
        if stamp[:-1] != sent[:-1] or stamp.ctime_ns != times[-1] or sent.ctime_ns not in times:
            return False
        os.unlink(name, dir_fd=directory)
        after = os.fstat(file)
        links.pop(inode, None)
        if after.st_nlink and len(links) < MAX_LINKED:
            links[inode] = [*times, after.st_ctime_ns]
        return True
    finally:
        os.close(file)
