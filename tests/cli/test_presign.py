"""URLs that work without keys for a while."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Callable

import pytest

from tests.cli.conftest import Call
from tests.support.fake_s3 import ACCESS_KEY, SECRET_KEY, FakeS3

HOSTILE = "a//b/../é +%2F;.txt"


def test_presigned_url_works(fake_s3: Callable[..., FakeS3], call: Call) -> None:
    """On a server that checks signatures, for a key with everything in it."""
    fake = fake_s3(1, secrets={ACCESS_KEY: SECRET_KEY})
    fake.store.add("bkt", HOSTILE, b"hello")

    result = call("presign", "--expires", "1h", f"s3/bkt/{HOSTILE}", env={"S3_POOL": fake.endpoints[0]})

    assert b"hello" == urllib.request.urlopen(result.out.strip()).read()
    assert [] == fake.ops(op="HeadObject")


def test_presigned_put_stores(fake_s3: Callable[..., FakeS3], call: Call) -> None:
    """Whoever has the URL may upload."""
    fake = fake_s3(1, secrets={ACCESS_KEY: SECRET_KEY})
    fake.store.add("bkt", "other")
    url = call("presign", "--method", "PUT", "s3/bkt/k", env={"S3_POOL": fake.endpoints[0]}).out.strip()

    urllib.request.urlopen(urllib.request.Request(url, data=b"up", method="PUT"))

    assert b"up" == fake.store.bodies("bkt")["k"]


def test_presign_json(call: Call) -> None:
    """When it ends is part of the record."""
    record = call("presign", "--json", "s3/bkt/k").records[0]

    assert ["type", "url", "expires"] == list(record)
    assert "presigned" == record["type"]
    assert "X-Amz-Expires=604800" in record["url"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.000Z", record["expires"])


def test_presigned_url_names_a_node_that_answers(fake_s3: Callable[..., FakeS3], call: Call) -> None:
    """The first may be dead, and whoever gets the URL has no other; one line tells that it depends on one node."""
    fake = fake_s3(4, secrets={ACCESS_KEY: SECRET_KEY})
    fake.store.add("bkt", "k", b"hello")
    fake.nodes[0].kill()
    fake.nodes[1].black_hole()
    first, _, third, fourth = fake.endpoints
    pool = {"S3_POOL": ",".join(fake.endpoints)}

    result = call("presign", "s3/bkt/k", env=pool)
    near = call("presign", "s3/bkt/k", env={"S3_POOL": f"{third};zone=b,{fourth};zone=a", "S3POOL_ZONE": "a"})
    found = call("find", "s3/bkt", "--print", "{url}", env=pool)
    for node in fake.nodes:
        node.kill()
    dead = call("presign", "s3/bkt/k", env=pool)

    note = f"s3pool: the URL names {third}, one of 4 endpoints; for a name that outlives it, give --url"
    assert [note] == result.err.splitlines()
    assert result.out.startswith(f"{third}/bkt/k?")
    assert near.out.startswith(f"{fourth}/bkt/k?")
    assert found.out.startswith((f"{third}/bkt/k?", f"{fourth}/bkt/k?"))
    assert (0, True) == (dead.code, dead.out.startswith(f"{first}/bkt/k?"))
    warning = f"s3pool: warning: none of the 4 endpoints answers; the URL names the first, {first}"
    assert [warning] == dead.err.splitlines()


def test_presigned_url_names_the_public_host(fake_s3: Callable[..., FakeS3], call: Call) -> None:
    """Which is signed, so that a balancer that keeps the Host header may stand there; no node is asked."""
    fake = fake_s3(2, secrets={ACCESS_KEY: SECRET_KEY})
    fake.store.add("bkt", "k", b"hello")
    pool = {"S3_POOL": ",".join(fake.endpoints)}

    by_flag = call("presign", "--url", "https://public.example", "s3/bkt/k", env=pool)
    by_key = call("presign", "s3/bkt/k", env={**pool, "S3POOL_PUBLIC_URL": "http://public.example:81"})
    wrong = call("presign", "--url", "https://public.example/path", "s3/bkt/k", env=pool)

    assert by_flag.out.startswith("https://public.example/bkt/k?")
    assert (b"", [], []) == (by_flag.stderr, by_key.err.splitlines(), fake.requests)
    asked = urllib.request.Request(by_key.out.strip().replace("http://public.example:81", fake.endpoints[0]))
    asked.add_header("Host", "public.example:81")
    assert b"hello" == urllib.request.urlopen(asked).read()
    message = "--url: bad endpoint 'https://public.example/path': only scheme, host and port may stand there"
    assert (2, [f"s3pool: error: {message}"]) == (wrong.code, wrong.err.splitlines())
    unset = call("presign", "--url", "", "s3/bkt/k", env=pool)  # such as an empty variable of a script
    assert (2, "s3pool: error: --url: must not be empty\n") == (unset.code, unset.err)


@pytest.mark.parametrize(
    "flags", [["--expires", "8d"], ["--expires", "0s"], ["--method", "POST"], ["--no-sign-request"]]
)
def test_presign_refuses_what_s3_would(call: Call, flags: list[str]) -> None:
    """Better now than when somebody uses the URL."""
    assert (2, "") == (call("presign", "s3/bkt/k", *flags).code, call("presign", "s3/bkt/k", *flags).out)


def test_presign_needs_a_key(call: Call) -> None:
    """A bucket cannot be fetched."""
    assert 2 == call("presign", "s3/bkt").code
