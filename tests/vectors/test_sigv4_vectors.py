"""Signatures that AWS has published, recomputed; ``sigv4.json`` names where each stands."""

from __future__ import annotations

import calendar
import json
import time
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest

from s3pool.model import Credentials, Endpoint, Request
from s3pool.s3.signing import TIMESTAMP_FORMAT, Signer, derive_key, signature, string_to_sign
from tests.support.signing import canonical_of

PUBLISHED = json.loads((Path(__file__).parent / "sigv4.json").read_text(encoding="utf-8"))


def by_name(suite: str) -> list[Any]:
    """Give a suite's vectors as parameters."""
    return [pytest.param(vector, id=vector["name"]) for vector in PUBLISHED[suite]["vectors"]]


def recompute(suite: dict[str, Any], vector: dict[str, Any], *, payload_hash: str) -> str:
    """Sign a vector's request with the pure functions, all of its headers signed."""
    date = suite["timestamp"][:8]
    key = derive_key(suite["secret_key"], date, region=suite["region"], service=suite["service"])
    canonical = canonical_of(
        vector["method"],
        vector["path"],
        query=vector["query"],
        headers=vector["headers"],
        signed=sorted({name.lower() for name, _ in vector["headers"]}),
        payload_hash=payload_hash,
    )
    scope = f"{date}/{suite['region']}/{suite['service']}/aws4_request"
    return signature(key, string_to_sign(suite["timestamp"], scope, canonical))


@pytest.fixture
def s3_signer() -> Signer:
    """Sign as the owner of AWS's example bucket."""
    suite = PUBLISHED["s3"]
    return Signer(Credentials(suite["access_key"], suite["secret_key"]), region=suite["region"])


@pytest.fixture
def s3_now() -> float:
    """Give the moment of AWS's S3 examples."""
    return calendar.timegm(time.strptime(PUBLISHED["s3"]["timestamp"], TIMESTAMP_FORMAT))


@pytest.mark.parametrize("vector", by_name("general"))
def test_general_vector_gives_the_published_signature(vector: dict[str, Any]) -> None:
    """What is not special to S3 must follow AWS's own suite."""
    payload_hash = sha256(vector["body"].encode()).hexdigest()

    computed = recompute(PUBLISHED["general"], vector, payload_hash=payload_hash)

    assert vector["signature"] == computed


@pytest.mark.parametrize("vector", by_name("s3"))
def test_s3_vector_gives_the_published_signature(vector: dict[str, Any]) -> None:
    """S3's examples take the payload hash as given, a streaming marker included."""
    computed = recompute(PUBLISHED["s3"], vector, payload_hash=vector["payload_hash"])

    assert vector["signature"] == computed


@pytest.mark.parametrize("name", ["GET Bucket Lifecycle", "GET Bucket (List Objects)"])
def test_signer_gives_the_published_authorization(name: str, s3_signer: Signer, s3_now: float) -> None:
    """The client's own way of signing must end where the pure functions do."""
    vector = next(each for each in PUBLISHED["s3"]["vectors"] if each["name"] == name)
    query = tuple(parse_qsl(vector["query"], keep_blank_values=True))
    request = Request(vector["method"], vector["path"], "Example", query=query, bucket_host="examplebucket")

    headers = s3_signer.sign(request, Endpoint("https", "s3.amazonaws.com", 443), s3_now)

    expected = (
        "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request, "
        f"SignedHeaders=host;x-amz-content-sha256;x-amz-date, Signature={vector['signature']}"
    )
    assert expected == headers["authorization"]


def test_presigned_url_is_the_published_one(s3_signer: Signer, s3_now: float) -> None:
    """The whole URL stands in AWS's manual; only the slashes in the credential are encoded."""
    vector = PUBLISHED["presigned"]
    request = Request("GET", vector["path"], "GetObject")

    url = s3_signer.presign(request, Endpoint("https", vector["host"], 443), s3_now, expires_s=vector["expires_s"])

    expected = (
        "https://examplebucket.s3.amazonaws.com/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256"
        "&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request"
        "&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host"
        f"&X-Amz-Signature={vector['signature']}"
    )
    assert expected == url


def test_signing_key_is_the_published_one() -> None:
    """The derivation is requests-aws4auth's; this pins it."""
    vector = PUBLISHED["signing_key"]

    key = derive_key(vector["secret_key"], vector["date"], region=vector["region"], service=vector["service"])

    assert vector["key"] == key.hex()
