"""One object on its way from another pool: what is known of it, and how its bytes are had."""

from __future__ import annotations

from typing import TYPE_CHECKING

from s3pool.model import UNSIGNED_PAYLOAD, ByteRange, ObjectAttributes
from s3pool.record import dataclass, replace
from s3pool.s3.exchange import block_on
from s3pool.transfer.attributes import merge_for_copy
from s3pool.transfer.digests import Seal, is_md5_etag, seal
from s3pool.transfer.fetch import Facts, Source
from s3pool.transfer.sourcebody import SourceBody
from s3pool.transfer.tags import tags_of_source
from s3pool.transfer.tasks import CopyTask
from s3pool.transfer.verify import etag_tells_content

if TYPE_CHECKING:
    import hashlib

    from s3pool.model import ObjectHead
    from s3pool.transfer.context import Engine
    from s3pool.transfer.progress import Meter

STREAMED = Seal(UNSIGNED_PAYLOAD)  # of a body whose digest is known when it is gone


@dataclass(frozen=True, slots=True)
class Crossing:
    """One object on its way from the pool of ``engine.source``, as HEAD told it there."""

    task: CopyTask
    head: ObjectHead
    engine: Engine
    meter: Meter

    @property
    def source(self) -> Source:
        """Give the place the bytes come from."""
        return source_of(self.task)

    @property
    def has_md5(self) -> bool:
        """Say whether the source's ETag is the MD5 of its bytes in their order."""
        return is_md5_etag(self.head.etag) and etag_tells_content(self.head.etag, self.head.headers)

    def attributes(self) -> ObjectAttributes:
        """Give what CopyObject would have taken over by itself, and what the user gave."""
        given = self.engine.options.attributes
        tags = given.tags or block_on(tags_of_source(self.task, self.head, self.engine))
        return replace(merge_for_copy(given, self.head), tags=tags)

    def body(
        self, place: ByteRange, *, wanted_md5: str = "", before: hashlib._Hash | None = None, checksum: str = ""
    ) -> SourceBody:
        """Return a range as the body of a request; ``checksum`` names one more digest to make of it."""
        return SourceBody(
            self.source,
            place,
            Facts(self.head.size, self.head.etag, self.head.headers),
            engine=self.engine.source,
            meter=self.meter,
            wanted_md5=wanted_md5,
            before=before,
            checksum=checksum,
        )

    def read_first(self, body: SourceBody) -> Seal:
        """Read a body once more than it is sent, for digests that have to go ahead of it."""
        # Content-MD5 is what every server compares. A signature would need a digest as well.
        return seal(body.feed, sign_payload=False, checksum=self.engine.options.checksum)


def source_of(task: CopyTask) -> Source:
    """Give the place the bytes of a copy come from."""
    return Source(task.source_bucket, task.source_key, task.version_id)
