"""Whether one tree in S3 lies inside another one, whatever names the two go by.

Neither endpoints nor names tell: a pool has many addresses, a bucket may have a second name (a
tenant's, an access point's), and to some servers ``a//k`` is ``a/k``. A place that shows the
source's own objects, with their ETags and times, is the source's.
"""

from __future__ import annotations

import unicodedata
from itertools import islice
from typing import TYPE_CHECKING
from urllib.parse import unquote

from s3pool.errors import NotFoundError, S3Error
from s3pool.location import S3Path

if TYPE_CHECKING:
    from s3pool.model import ObjectHead, ObjectInfo
    from s3pool.s3.client import S3Client

PROBES = 3  # objects that must be the same: one alone could be so by chance


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
    try:
        page = source_client.list_objects_page(source.bucket, prefix=source.tree_prefix, max_keys=PROBES)
        infos = list(islice(page.objects, PROBES))
        return bool(infos) and all(
            _is_same(info, target_client.head_object(place.bucket, place.key + info.key[len(source.tree_prefix) :]))
            for info in infos
        )
    except (NotFoundError, S3Error):  # what is wrong is told by the work itself
        return False


def _is_same(info: ObjectInfo, head: ObjectHead) -> bool:
    return (info.size, info.etag, int(info.mtime)) == (head.size, head.etag, int(head.mtime))
