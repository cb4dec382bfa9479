"""An object's tags, which no HEAD tells: only how many there are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from s3pool.model import ObjectHead
    from s3pool.s3.exchange import Steps
    from s3pool.transfer.context import Engine
    from s3pool.transfer.tasks import CopyTask

TAG_COUNT = "x-amz-tagging-count"


def tags_of_source(task: CopyTask, head: ObjectHead, engine: Engine) -> Steps[Mapping[str, str]]:
    """Give the tags of what is copied; it is asked for them only when there are some."""
    if head.headers.get(TAG_COUNT, "0") == "0":
        return {}
    tags = yield from engine.source.client.get_tags.steps(
        task.source_bucket, task.source_key, version_id=task.version_id
    )
    return tags
