"""s3pool ping proves the keys, and names a server or a scheme that is not the right one."""

from __future__ import annotations

import http.server
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.fake_s3 import Answer as Refusal
from tests.support.fake_s3 import FakeS3
from tests.support.proxying import checking_fake
from tests.support.run_cli import CliRunner

TLS_FILE = Path(__file__).parents[1] / "support" / "tls" / "server.pem"
SECRET = "AWS_SECRET_ACCESS_KEY"


@pytest.fixture
def fake() -> Iterator[FakeS3]:
    """Return two nodes that check signatures."""
    with checking_fake(2) as made:
        yield made


@contextmanager
def page_server(*, has_tls: bool = False) -> Iterator[int]:
    """Yield the port of a web server that is no S3."""

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(404)
            self.send_header("Content-Length", "9")
            self.end_headers()
            self.wfile.write(b"not here\n")

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
    if has_tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(TLS_FILE)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


CASES = {
    "good keys": ({}, 0, "ok", ""),
    "a wrong secret": ({SECRET: "wrong"}, 4, "refused", "SignatureDoesNotMatch: "),
    "an unknown key": ({"AWS_ACCESS_KEY_ID": "nobody"}, 4, "refused", "InvalidAccessKeyId: "),
    "no keys": ({"AWS_ACCESS_KEY_ID": "", SECRET: ""}, 0, "", ""),
}


@pytest.mark.parametrize("case", CASES)
def test_keys_are_proved_on_each_node(fake: FakeS3, run_here: CliRunner, case: str) -> None:
    """A node may be up and all work on it refused."""
    env, code, keys, error = CASES[case]

    result = run_here("ping", "--json", env={**fake.environment, **env})

    assert (code, 2) == (result.code, len(result.records)), result.err
    for record in result.records:
        assert (True, keys) == (record["healthy"], record["keys"])
        assert record["error"].startswith(error) if error else record["error"] == ""


def test_keys_that_may_not_list_buckets_are_good(fake: FakeS3, run_here: CliRunner) -> None:
    """Keys of one bucket are the usual case in some places."""
    fake.fault(Refusal(403, "AccessDenied", "Access Denied."), op="ListBuckets", times=0)
    result = run_here("ping", env=fake.environment)

    assert 0 == result.code
    assert [["up", "ok"]] * 2 == [line.split()[1:3] for line in result.lines[1:]]


@pytest.mark.parametrize(
    ("status", "refusal", "code", "keys", "error"),
    [
        (400, "AuthorizationHeaderMalformed", 4, "refused", "AuthorizationHeaderMalformed: Odd.; check --region"),
        (409, "OperationAborted", 0, "-", "409 OperationAborted: Odd. (request scripted)"),
    ],
)
def test_signed_request_that_was_answered_was_asked(
    fake: FakeS3, run_here: CliRunner, status: int, refusal: str, code: int, keys: str, error: str
) -> None:
    """A wrong region that the server does not correct is a refusal, and no other answer means that nobody asked."""
    fake.fault(Refusal(status, refusal, "Odd."), op="ListBuckets", times=0)

    result = run_here("ping", env=fake.environment)

    assert code == result.code
    for line in result.lines[1:]:
        assert ["up", keys] == line.split()[1:3]
        assert line.endswith(error)


def test_keys_that_garage_does_not_know_are_refused(fake: FakeS3, run_here: CliRunner) -> None:
    """It denies access, and only its words tell."""
    fake.fault(Refusal(403, "AccessDenied", "Forbidden: No such key: GK1"), op="ListBuckets", times=0)

    assert 4 == run_here("ping", env=fake.environment).code


@pytest.mark.parametrize(
    ("has_tls", "scheme", "error"),
    [
        (False, "http", "status 404; it answers HTTP, and is no S3: check host and port"),
        (True, "http", "this port speaks HTTPS: write https://127.0.0.1:{port}"),
        (False, "https", "this port speaks HTTP: write http://127.0.0.1:{port}"),
    ],
)
def test_wrong_server_and_wrong_scheme_are_named(
    fake: FakeS3, run_here: CliRunner, has_tls: bool, scheme: str, error: str
) -> None:
    """What to change stands in the row of the node."""
    with page_server(has_tls=has_tls) as port:
        result = run_here("ping", "--json", env={**fake.environment, "S3_POOL": f"{scheme}://127.0.0.1:{port}"})

    (record,) = result.records
    assert (5, False, "") == (result.code, record["healthy"], record["keys"])
    assert error.format(port=port) == record["error"]
