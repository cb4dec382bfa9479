from __future__ import annotations

import time
from http.client import HTTPConnection

import pytest

from tests.bench.signing import signed_headers
from tests.bench.tools import ACCESS_KEY, SECRET_KEY
from tests.support.fake_s3 import FakeS3


@pytest.mark.parametrize(("path", "expected"), [("/b/k", 200), ("/b/other", 403)])
def test_signature_holds_for_its_path_alone(fake_s3, path: str, expected: int) -> None:
    """A proxy that refuses the load, or one that lets anything pass, would be measured wrongly."""
    fake: FakeS3 = fake_s3(secrets={ACCESS_KEY: SECRET_KEY})
    for key in ("k", "other"):
        fake.store.add("b", key, b"content")
    host = fake.endpoints[0].removeprefix("http://")
    connection = HTTPConnection(host, timeout=10)

    connection.request("GET", path, headers=dict(signed_headers("/b/k", host=host, now=time.time())))

    assert expected == connection.getresponse().status
    connection.close()
