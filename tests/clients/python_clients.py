"""The daily work of each Python client in its default settings; run as ``python_clients.py NAME`` by zoo.py.

Each prints one JSON object: what its steps gave, or how they failed. It knows nothing of proxies.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import ssl
import sys
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

URL, KEY, SECRET = (os.environ.get(name, "") for name in ("ZOO_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"))
BUCKET, CA = os.environ.get("ZOO_BUCKET", ""), os.environ.get("AWS_CA_BUNDLE", "")
REGION = "us-east-1"
SMALL, LARGE = b"0123456789" * 1000, bytes(range(256)) * 4096 * 20  # the second of several parts: 20 MiB
Steps = Iterator[tuple[str, Callable[[], object]]]


def digest(content: bytes) -> str:
    """Return a short name for bytes."""
    return f"{len(content)} {hashlib.sha256(content).hexdigest()[:12]}"


def boto3_(boto: Any = None) -> Steps:
    """Put, multipart, range, copy, list, delete."""
    import boto3

    client = boto3.client("s3", endpoint_url=URL, region_name=REGION, verify=CA or None)
    yield "put", lambda: client.put_object(Bucket=BUCKET, Key="boto/small", Body=SMALL)["ETag"]
    yield "multipart", lambda: client.upload_fileobj(io.BytesIO(LARGE), BUCKET, "boto/large")
    yield "read", lambda: digest(client.get_object(Bucket=BUCKET, Key="boto/large")["Body"].read())
    yield "range", lambda: digest(client.get_object(Bucket=BUCKET, Key="boto/small", Range="bytes=5-99")["Body"].read())
    source = {"Bucket": BUCKET, "Key": "boto/small"}
    yield (
        "copy",
        lambda: client.copy_object(Bucket=BUCKET, Key="boto/copy", CopySource=source)["ResponseMetadata"][
            "HTTPStatusCode"
        ],
    )
    yield "list", lambda: [found["Key"] for found in client.list_objects_v2(Bucket=BUCKET, Prefix="boto/")["Contents"]]
    names = [{"Key": f"boto/{name}"} for name in ("small", "large", "copy")]
    yield "delete", lambda: len(client.delete_objects(Bucket=BUCKET, Delete={"Objects": names})["Deleted"])


def minio() -> Steps:
    """Put, multipart, read, list, remove."""
    import urllib3
    from minio import Minio

    parts = urlsplit(URL)
    http = urllib3.PoolManager(ca_certs=CA) if CA else None
    client = Minio(parts.netloc, access_key=KEY, secret_key=SECRET, secure=parts.scheme == "https", http_client=http)
    yield "put", lambda: client.put_object(BUCKET, "minio/small", io.BytesIO(SMALL), len(SMALL)).etag
    yield (
        "multipart",
        lambda: client.put_object(BUCKET, "minio/large", io.BytesIO(LARGE), -1, part_size=5 << 20).object_name,
    )
    yield "read", lambda: digest(client.get_object(BUCKET, "minio/large").read())
    yield "list", lambda: [found.object_name for found in client.list_objects(BUCKET, "minio/", recursive=True)]
    yield "delete", lambda: [client.remove_object(BUCKET, f"minio/{name}") for name in ("small", "large")]


def pyarrow() -> Steps:
    """A stream and a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from pyarrow import fs

    parts = urlsplit(URL)
    options = {"tls_ca_file_path": CA} if CA else {}
    store = fs.S3FileSystem(
        access_key=KEY, secret_key=SECRET, region=REGION, endpoint_override=parts.netloc, scheme=parts.scheme, **options
    )

    def write() -> None:
        with store.open_output_stream(f"{BUCKET}/arrow/large") as stream:
            stream.write(LARGE)

    table = pa.table({"a": list(range(1000)), "b": [str(number) for number in range(1000)]})
    yield "stream", write
    yield "read", lambda: digest(store.open_input_stream(f"{BUCKET}/arrow/large").read())
    yield "write table", lambda: pq.write_table(table, f"{BUCKET}/arrow/table.parquet", filesystem=store)
    yield "read table", lambda: pq.read_table(f"{BUCKET}/arrow/table.parquet", filesystem=store).num_rows
    yield "list", lambda: sorted(found.base_name for found in store.get_file_info(fs.FileSelector(f"{BUCKET}/arrow")))
    yield "delete", lambda: store.delete_dir_contents(f"{BUCKET}/arrow")


def s3fs() -> Steps:
    """Pandas and dask, which go through it."""
    import dask.dataframe as dd
    import pandas as pd

    options = {"key": KEY, "secret": SECRET, "client_kwargs": {"endpoint_url": URL, "verify": CA or None}}
    frame = pd.DataFrame({"a": range(50_000), "b": ["x" * 50] * 50_000})
    yield "to_csv", lambda: frame.to_csv(f"s3://{BUCKET}/pandas/f.csv", storage_options=options)
    yield "read_csv", lambda: len(pd.read_csv(f"s3://{BUCKET}/pandas/f.csv", storage_options=options))
    dask_frame = dd.from_pandas(frame, npartitions=3)
    yield "to_parquet", lambda: dask_frame.to_parquet(f"s3://{BUCKET}/dask", storage_options=options)
    yield "read_parquet", lambda: len(dd.read_parquet(f"s3://{BUCKET}/dask", storage_options=options))
    import s3fs as library

    store = library.S3FileSystem(**options)
    yield "glob", lambda: len(store.glob(f"{BUCKET}/dask/*.parquet"))
    yield "delete", lambda: [store.rm(f"{BUCKET}/{name}", recursive=True) for name in ("dask", "pandas")]


def object_store_options() -> dict[str, str]:
    """Return what the libraries on Rust's object_store take."""
    return {
        "aws_endpoint_url": URL,
        "aws_access_key_id": KEY,
        "aws_secret_access_key": SECRET,
        "aws_region": REGION,
        "aws_allow_http": "true",
        "allow_invalid_certificates": "true",  # it knows no other roots
    }


def polars() -> Steps:
    """A Parquet file, written and scanned."""
    import polars as pl

    frame, options = pl.DataFrame({"a": range(100_000)}), object_store_options()
    yield "write", lambda: frame.write_parquet(f"s3://{BUCKET}/polars/f.parquet", storage_options=options)
    yield (
        "scan",
        lambda: (
            pl.scan_parquet(f"s3://{BUCKET}/polars/*.parquet", storage_options=options)
            .select(pl.len())
            .collect()
            .item()
        ),
    )


def obstore() -> Steps:
    """Put, multipart, ranges, list, delete; a write on a condition."""
    import obstore as obs
    from obstore.store import S3Store

    store = S3Store(
        BUCKET,
        endpoint=URL,
        access_key_id=KEY,
        secret_access_key=SECRET,
        region=REGION,
        virtual_hosted_style_request=False,
        client_options={"allow_http": True, "allow_invalid_certificates": True},  # it knows no other roots
    )
    yield "put", lambda: obs.put(store, "obstore/small", SMALL)["e_tag"]
    yield "create twice", lambda: obs.put(store, "obstore/small", SMALL, mode="create")
    yield "multipart", lambda: bool(obs.put(store, "obstore/large", LARGE, use_multipart=True))
    yield "read", lambda: digest(bytes(obs.get(store, "obstore/large").bytes()))
    yield "range", lambda: digest(bytes(obs.get_range(store, "obstore/small", start=5, end=100)))
    yield "list", lambda: sorted(found["path"] for page in obs.list(store, "obstore/") for found in page)
    yield "delete", lambda: obs.delete(store, ["obstore/small", "obstore/large"])


def opendal() -> Steps:
    """Write, stat, read, list, delete."""
    import opendal as library

    store = library.Operator(
        "s3", bucket=BUCKET, endpoint=URL, region=REGION, access_key_id=KEY, secret_access_key=SECRET
    )
    yield "write", lambda: store.write("opendal/large", LARGE)
    yield "stat", lambda: store.stat("opendal/large").content_length
    yield "read", lambda: digest(bytes(store.read("opendal/large")))
    yield "list", lambda: sorted(found.path for found in store.list("opendal/"))
    yield "delete", lambda: store.delete("opendal/large")


def deltalake() -> Steps:
    """A table, a second version of it, and a look at the first."""
    import pyarrow as pa
    from deltalake import DeltaTable, write_deltalake

    where, options = f"s3://{BUCKET}/delta", {name.upper(): value for name, value in object_store_options().items()}
    table = pa.table({"a": list(range(1000))})
    yield "write", lambda: write_deltalake(where, table, storage_options=options)
    yield "append", lambda: write_deltalake(where, table, mode="append", storage_options=options)
    yield "read", lambda: DeltaTable(where, storage_options=options).to_pyarrow_table().num_rows
    yield "version 0", lambda: DeltaTable(where, version=0, storage_options=options).to_pyarrow_table().num_rows


def pyiceberg() -> Steps:
    """A table in a catalogue of its own."""
    import pyarrow as pa
    from pyiceberg.catalog.sql import SqlCatalog

    names = {"s3.endpoint": URL, "s3.access-key-id": KEY, "s3.secret-access-key": SECRET, "s3.region": REGION}
    catalog = SqlCatalog("zoo", uri="sqlite:///:memory:", warehouse=f"s3://{BUCKET}/iceberg", **names)
    table = pa.table({"a": list(range(1000))})
    yield "namespace", lambda: catalog.create_namespace("n")
    yield "create", lambda: bool(catalog.create_table("n.t", table.schema))
    yield "append", lambda: catalog.load_table("n.t").append(table)
    yield "scan", lambda: catalog.load_table("n.t").scan().to_arrow().num_rows


def awscrt() -> Steps:
    """The C runtime's own client, with its own checksums."""
    from awscrt import auth, http, s3
    from awscrt import io as crt_io

    parts = urlsplit(URL)
    bootstrap = crt_io.ClientBootstrap.get_or_create_static_default()
    provider = auth.AwsCredentialsProvider.new_static(KEY, SECRET)
    tls = None
    if parts.scheme == "https":
        context = crt_io.TlsContextOptions()
        if CA:
            context.verify_peer = False  # it takes no certificate that signs itself
        tls = crt_io.ClientTlsContext(context).new_connection_options()
    client = s3.S3Client(
        bootstrap=bootstrap,
        region=REGION,
        signing_config=s3.create_default_s3_signing_config(region=REGION, credential_provider=provider),
        tls_mode=s3.S3RequestTlsMode.ENABLED if tls else s3.S3RequestTlsMode.DISABLED,
        tls_connection_options=tls,
        part_size=5 << 20,
    )

    def ask(method: str, key: str, body: bytes = b"", **options: Any) -> bytes:
        received: list[bytes] = []
        fields = http.HttpHeaders([("host", parts.netloc)])
        if body:
            fields.add("content-length", str(len(body)))
        request = http.HttpRequest(method, f"/{BUCKET}/{key}", fields, io.BytesIO(body) if body else None)
        kind = s3.S3RequestType.PUT_OBJECT if body else s3.S3RequestType.GET_OBJECT
        made = client.make_request(
            request=request,
            type=kind,
            on_body=lambda chunk, **_: received.append(bytes(chunk)),
            **options,
        )
        made.finished_future.result(120)
        return b"".join(received)

    for algorithm in ("CRC64NVME", "CRC32C"):
        config = s3.S3ChecksumConfig(
            algorithm=getattr(s3.S3ChecksumAlgorithm, algorithm), location=s3.S3ChecksumLocation.TRAILER
        )
        yield f"put {algorithm}", lambda config=config: ask("PUT", "crt/large", LARGE, checksum_config=config)  # type: ignore[misc]
        yield f"read {algorithm}", lambda: digest(ask("GET", "crt/large"))


CLIENTS: dict[str, Callable[[], Steps]] = {
    "boto3": boto3_,
    "minio-py": minio,
    "pyarrow": pyarrow,
    "s3fs": s3fs,
    "polars": polars,
    "obstore": obstore,
    "opendal": opendal,
    "deltalake": deltalake,
    "pyiceberg": pyiceberg,
    "awscrt": awscrt,
}


def tell(exc: BaseException) -> str:
    """Return how a step failed in a form that is the same whoever was asked."""
    text = str(exc)
    codes = [word for word in CODES if word in text]
    return f"{type(exc).__name__}: {codes[0]}" if codes else type(exc).__name__


CODES = (
    "XAmzContentSHA256Mismatch",
    "MissingContentLength",
    "PreconditionFailed",
    "BadDigest",
    "SignatureDoesNotMatch",
    "AccessDenied",
    "NotImplemented",
    "InvalidArgument",
    "InvalidRequest",
    "NoSuchKey",
    "HTTP response code 411",
    "411",
    "412",
    "403",
    "400",
    "503",
)


def main(name: str) -> None:
    """Do the work of one client and tell what came of it."""
    ssl.create_default_context()
    found: dict[str, object] = {}
    try:
        for step, act in CLIENTS[name]():
            try:
                found[step] = act()
                found[step] = found[step] if isinstance(found[step], (str, int, list, bool)) else "done"
            except Exception as exc:  # noqa: BLE001 what a client raises is what is compared
                found[step] = f"failed: {tell(exc)}"
                print(f"{step}: {exc}"[:500], file=sys.stderr)
    except ImportError as exc:
        found = {"not installed": str(exc)}
    print(json.dumps(found, default=str))


if __name__ == "__main__":
    main(sys.argv[1])
