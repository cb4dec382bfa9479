"""A client without retries that works while nodes fail; run as ``fault_worker.py NAME`` by node_faults.py.

It prints ``ready PHASE`` and waits for a line; ``half PHASE`` in the middle of its work; and in the end
``done PHASE JSON``. It knows nothing of pools.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

URL, BUCKET = os.environ["ZOO_URL"], os.environ["ZOO_BUCKET"]
KEY, SECRET = os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]
SMALL, PART = b"0123456789" * 1000, bytes(range(256)) * 4096 * 8  # 8 MiB
COUNT, PARTS, THREADS = 200, 25, 8
PAUSE_S = 0.05  # between two requests of a thread, so that a fault comes between them
LEAST_S = float(os.environ.get("ZOO_SECONDS", "0"))  # that the small requests go on for
TIMEOUT_S = 150.0


def boto3_() -> dict[str, Callable[..., object]]:
    """Use boto3: parts by several threads, the whole by one request."""
    import boto3
    from botocore.config import Config

    config = Config(
        retries={"total_max_attempts": 1},
        read_timeout=TIMEOUT_S,
        max_pool_connections=THREADS,
        s3={"addressing_style": "path"},
    )
    names = {"endpoint_url": URL, "aws_access_key_id": KEY, "aws_secret_access_key": SECRET, "region_name": "us-east-1"}
    client = boto3.client("s3", config=config, **names)

    def up(half: Callable[[], None]) -> None:
        upload = client.create_multipart_upload(Bucket=BUCKET, Key="large")["UploadId"]
        where = {"Bucket": BUCKET, "Key": "large", "UploadId": upload}
        done = []

        def send(number: int) -> dict[str, Any]:
            part = client.upload_part(Body=PART, PartNumber=number, **where)
            done.append(number)
            if len(done) == PARTS // 2:
                half()
            return {"PartNumber": number, "ETag": part["ETag"]}

        with ThreadPoolExecutor(4) as pool:
            parts = list(pool.map(send, range(1, PARTS + 1)))
        client.complete_multipart_upload(MultipartUpload={"Parts": parts}, **where)

    return {
        "put": lambda number: client.put_object(Bucket=BUCKET, Key=f"small{number}", Body=SMALL),
        "get": lambda number: _same(client.get_object(Bucket=BUCKET, Key=f"small{number}")["Body"].read(), SMALL),
        "up": up,
        "down": lambda half: _count(client.get_object(Bucket=BUCKET, Key="large")["Body"].iter_chunks(1 << 20), half),
    }


def obstore() -> dict[str, Callable[..., object]]:
    """Use object_store of Rust: its uploads and streams are its own affair, so the middle is one in time."""
    import obstore as obs
    from obstore.store import S3Store

    store = S3Store(
        BUCKET, endpoint=URL, access_key_id=KEY, secret_access_key=SECRET, region="us-east-1",
        client_options={"allow_http": True, "timeout": f"{TIMEOUT_S:.0f}s"}, retry_config={"max_retries": 0},
    )  # fmt: skip

    def pieces(half: Callable[[], None]) -> Iterator[bytes]:
        for number in range(PARTS):
            if number == PARTS // 2:
                half()
            yield PART

    return {
        "put": lambda number: obs.put(store, f"small{number}", SMALL, use_multipart=False),
        "get": lambda number: _same(bytes(obs.get(store, f"small{number}").bytes()), SMALL),
        "up": lambda half: obs.put(store, "large", pieces(half), chunk_size=len(PART), max_concurrency=4),
        "down": lambda half: _count(obs.get(store, "large").stream(min_chunk_size=1 << 20), half),
    }


def _same(got: bytes, want: bytes) -> None:
    if got != want:
        raise ValueError(f"{len(got)} bytes came, and not those that were stored")


def _count(blocks: Any, half: Callable[[], None]) -> None:
    size, want = 0, PARTS * len(PART)
    for block in blocks:
        before, size = size, size + len(block)
        if before < want // 2 <= size:
            half()
    if size != want:
        raise ValueError(f"{size} of {want} bytes came")


def _small(act: Callable[[int], object], half: Callable[[], None]) -> tuple[list[str], float]:
    """Do it for each object; return what failed, and the longest wait."""
    errors: list[str] = []
    waits = [0.0]
    started = time.monotonic()

    def one(number: int) -> None:
        if number == COUNT // 2:
            half()
        before = time.monotonic()
        try:
            act(number % COUNT)
        except Exception as exc:  # noqa: BLE001 - of any library
            errors.append(f"{number}: {exc!r}"[:300])
        waits.append(time.monotonic() - before)
        time.sleep(PAUSE_S)

    numbers = iter(range(1 << 30))
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                number = next(numbers)
            if number >= COUNT and time.monotonic() - started >= LEAST_S:
                return
            one(number)

    with ThreadPoolExecutor(THREADS) as pool:
        for future in [pool.submit(work) for _ in range(THREADS)]:
            future.result()
    return errors, max(waits)


def main(name: str) -> None:
    """Work through the phases."""
    acts = {"boto3": boto3_, "obstore": obstore}[name]()
    for phase, act in acts.items():
        print("ready", phase, flush=True)
        sys.stdin.readline()

        def half(phase: str = phase) -> None:
            print("half", phase, flush=True)

        started, errors = time.monotonic(), []
        if phase in ("put", "get"):
            errors, longest = _small(act, half)
        else:
            try:
                act(half)
            except Exception as exc:  # noqa: BLE001 - of any library
                errors = [f"{exc!r}"[:300]]
            longest = time.monotonic() - started
        print("done", phase, json.dumps({"errors": errors, "seconds": longest}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
