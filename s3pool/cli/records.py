"""The JSON objects that several commands give: objects, prefixes, buckets."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from s3pool.location import S3Path
from s3pool.model import BucketInfo, ObjectInfo, UploadInfo

if TYPE_CHECKING:
    from s3pool.cli.output import Output

Record = dict[str, object]


def object_record(bucket: str, info: ObjectInfo) -> Record:
    """Describe an object of a listing."""
    return {
        "type": "object",
        "url": S3Path(bucket, info.key).text,
        "bucket": bucket,
        "key": info.key,
        "size": info.size,
        "last_modified": info.last_modified,
        "etag": info.etag,
        "storage_class": info.storage_class,
    }


def version_record(bucket: str, info: ObjectInfo) -> Record:
    """Describe one version of an object: the object's fields and three more."""
    return {
        **object_record(bucket, info),
        "version_id": info.version_id,
        "is_latest": info.is_latest,
        "is_delete_marker": info.is_delete_marker,
    }


def prefix_record(bucket: str, prefix: str) -> Record:
    """Describe a directory of keys."""
    return {"type": "prefix", "url": S3Path(bucket, prefix).text, "prefix": prefix}


def bucket_record(bucket: BucketInfo) -> Record:
    """Describe a bucket of a listing."""
    return {"type": "bucket", "name": bucket.name, "created": bucket.created}


def upload_record(bucket: str, upload: UploadInfo) -> Record:
    """Describe an upload that was neither completed nor aborted."""
    return {
        "type": "upload",
        "url": S3Path(bucket, upload.key).text,
        "bucket": bucket,
        "key": upload.key,
        "upload_id": upload.upload_id,
        "initiated": upload.initiated,
        "storage_class": upload.storage_class,
    }


def object_encoder(bucket: str, out: Output) -> Callable[[ObjectInfo], str]:
    """Give what out.encode(object_record(...)) gives, several times as fast.

    A listing spends most of its time here; what is not plain goes the common way.
    """
    from json.encoder import encode_basestring as quote

    head = f'{{"type":"object","url":{quote(f"s3/{bucket}/")[:-1]}'
    middle = f'","bucket":{quote(bucket)},"key":"'

    def encode(info: ObjectInfo) -> str:
        key = info.key
        if not key.isprintable():
            return out.encode(object_record(bucket, info))
        quoted = quote(key)[1:-1]
        return (
            f'{head}{quoted}{middle}{quoted}","size":{info.size},"last_modified":{quote(info.last_modified)},'
            f'"etag":{quote(info.etag)},"storage_class":{quote(info.storage_class)}}}'
        )

    return encode
