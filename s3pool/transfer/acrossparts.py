"""A large object from another pool, in parts: each is read there while it is sent here."""

from __future__ import annotations

import base64
import hashlib
import logging
from typing import TYPE_CHECKING

from s3pool.errors import IntegrityError
from s3pool.hashing import CRC_BYTES
from s3pool.record import replace
from s3pool.s3.part_sizes import (
    MAX_PART_BYTES,
    MAX_PARTS,
    MIN_PART_BYTES,
    choose_part_size,
    count_parts,
    iter_part_ranges,
)
from s3pool.transfer.attributes import PART_SIZE
from s3pool.transfer.crossing import STREAMED, Crossing
from s3pool.transfer.digests import algorithm_header, composite_etag, server_checksum
from s3pool.transfer.multipart import MultipartUpload, not_stuck
from s3pool.transfer.resume import copy_fingerprint
from s3pool.transfer.sourcebody import SourceBody
from s3pool.transfer.verify import (
    certain_part_size,
    check_digests,
    compare_checksum,
    etag_tells_content,
    first_part_size,
)

if TYPE_CHECKING:
    from s3pool.model import ByteRange, ObjectAttributes, ObjectHead
    from s3pool.transfer.tasks import Done

logger = logging.getLogger(__name__)


def copy_in_parts(crossing: Crossing) -> Done:
    """Copy an object in parts, many at a time where its ETag is made of parts.

    A plain MD5 is of the bytes in their order: only parts taken one after the other can be
    held against it.

    Raises:
        IntegrityError: what arrived is not the source, or not what was stored.
        SourceError: the source failed, or was replaced.
    """
    return not_stuck(lambda: _copy_in_parts(crossing), lambda: crossing.meter.advance(-crossing.head.size))


def _copy_in_parts(crossing: Crossing) -> Done:
    task, head, engine = crossing.task, crossing.head, crossing.engine
    part_size = choose_parts(head, engine.options.part_size)
    attributes = crossing.attributes()
    attributes = replace(attributes, metadata=dict(attributes.metadata) | {PART_SIZE: str(part_size)})
    fingerprint = _fingerprint(crossing, part_size, attributes)
    ranges = enumerate(iter_part_ranges(head.size, part_size), start=1)
    with MultipartUpload(engine, task.bucket, task.key, attributes=attributes, fingerprint=fingerprint) as target:
        parts = _Parts(crossing, target)
        engine.executor.share(parts.put, ranges, limit=1 if parts.is_in_order else engine.part_workers)
        parts.check(part_size)
        return target.complete(head.size)


def choose_parts(head: ObjectHead, wanted: int) -> int:
    """Choose the size of the parts: the source's own where it is known, for then the ETags agree."""
    own = 0 if wanted else first_part_size(head.size, head.etag, head.headers)
    if MIN_PART_BYTES <= own <= MAX_PART_BYTES and count_parts(head.size, own) <= MAX_PARTS:
        return own
    return choose_part_size(head.size, wanted)


def _fingerprint(crossing: Crossing, part_size: int, attributes: ObjectAttributes) -> str:
    if algorithm_header(crossing.engine.options.checksum):
        return ""  # Complete wants the checksums of all parts, and ListParts may not tell them
    head = crossing.head
    return copy_fingerprint(head.size, head.etag, part_size=part_size, attributes=attributes)


class _Parts:
    """The parts of one object, and the digests of what arrived for them; for several workers."""

    def __init__(self, crossing: Crossing, target: MultipartUpload) -> None:
        options = crossing.engine.options
        self._crossing = crossing
        self._target = target
        self._digests: dict[int, str] = {}
        self._checksums: dict[int, tuple[bytes, int]] = {}  # digests of the parts, and their lengths
        self._told = told = server_checksum(crossing.head.headers)
        by_parts = told is not None and (told.parts > 0 or told.algorithm in CRC_BYTES)
        self._checksum = told.algorithm if told is not None and by_parts else ""  # made of each part
        self._whole = hashlib.md5(usedforsecurity=False) if crossing.has_md5 else None
        if self._whole is None and told is not None and not by_parts:
            self._whole = hashlib.new(told.algorithm, usedforsecurity=False)
        # Under KMS no ETag tells what is stored: the server has to compare, by digests that go ahead.
        self._reads_first = bool(options.checksum) or "kms" in options.attributes.sse

    @property
    def is_in_order(self) -> bool:
        """Whether a digest of all bytes is made, which takes the parts one after the other."""
        return self._whole is not None

    def put(self, numbered: tuple[int, ByteRange]) -> None:
        """Store one part, unless an earlier run did."""
        number, place = numbered
        body = self._crossing.body(place, before=self._whole, checksum=self._checksum)
        stored = self._target.stored_etag(number, place.length)
        if stored and self._is_of_use(stored, body):
            self._target.keep(number)
            self._crossing.meter.advance(place.length)
            self._digests[number] = stored
        else:
            self._send(number, body)
            self._digests[number] = body.md5.hexdigest()
        self._whole = body.whole
        if body.digest is not None:
            self._checksums[number] = body.digest.digest(), place.length

    def _is_of_use(self, stored: str, body: SourceBody) -> bool:
        """Say whether a stored part has the bytes of the source, which its own ETag will tell if it can."""
        if self._whole is None and not self._checksum:
            return True
        self._crossing.read_first(body)
        return body.md5.hexdigest() == stored

    def _send(self, number: int, body: SourceBody) -> None:
        if self._reads_first:
            self._target.put(number, body, seal=self._crossing.read_first(body))
            return
        etag = self._target.put(number, body, seal=STREAMED)
        md5 = body.md5
        if etag == md5.hexdigest():
            return
        # A byte was changed on its way, or ETags are no digests there (KMS). The server can tell.
        logger.info("%s: part %d has the ETag %s, not its MD5; sending it again", self._target.resource, number, etag)
        told = replace(STREAMED, content_md5=base64.b64encode(md5.digest()).decode(), md5_hex=md5.hexdigest())
        self._reads_first = self._target.put(number, body, seal=told) != body.md5.hexdigest()

    def check(self, part_size: int) -> None:
        """Hold what arrived against the source's ETag, as far as that tells.

        Raises:
            IntegrityError: it is certainly something else.
        """
        head = self._crossing.head
        if self._told is not None and self._checksum:
            digests = [digest for _, digest in sorted(self._checksums.items())]
            check_digests(self._crossing.source, self._told, digests, part_size=part_size, head=head)
        elif self._told is not None and self._whole is not None and not self._crossing.has_md5:
            compare_checksum(self._crossing.source, self._told, self._whole.digest())
        if not etag_tells_content(head.etag, head.headers):
            return
        if self._whole is not None:
            found, is_certain = self._whole.hexdigest(), True
        else:
            found = composite_etag(digest for _, digest in sorted(self._digests.items()))
            is_certain = certain_part_size(head.size, head.etag, head.headers) == part_size
        if found == head.etag:
            return
        if is_certain:
            raise IntegrityError(f"{self._crossing.source}: the bytes that arrived do not make its ETag {head.etag}")
        logger.info("%s: parts of %d bytes cannot be held against its ETag", self._crossing.source, part_size)
