"""What a stranger sends costs time in proportion to its length, whatever is in it.

Each input is grown 16-fold and may take 40 times as long, for caches end somewhere; with the square of its length it
would take 256 times. Processor time of this thread is measured, the least of several runs, so that a loaded machine
takes longer and fails nothing.
"""

from __future__ import annotations

import base64
import contextlib
import io
import time
from collections.abc import Callable

import pytest

from s3pool.errors import S3PoolError
from s3pool.location import compile_glob
from s3pool.pool.http1 import parse_head as parse_answer_head
from s3pool.proxy.auth import read_claim
from s3pool.proxy.forms import FormReader, put_head, read_policy
from s3pool.proxy.framing import AwsChunkedReader, ChunkedReader
from s3pool.proxy.request import parse_head
from s3pool.proxy.stream import ClientStream
from s3pool.s3 import documents, pages
from s3pool.s3.documents import parse
from s3pool.units import parse_http_date
from tests.support.fake_s3 import MIB

GROWTH, ALLOWED, ROUNDS = 16, 40, 12
LEAST_S = 0.0002  # below this a clock tells little, and a person feels nothing


class Trickle:
    """A socket whose bytes come one by one."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._place = 0

    def recv(self, _size: int) -> bytes:
        """Return the next byte."""
        self._place += 1
        return self._content[self._place - 1 : self._place]

    def setsockopt(self, *_option: object) -> None:
        """Take every option."""

    def settimeout(self, _seconds: float | None) -> None:
        """Take every limit."""

    def gettimeout(self) -> None:
        """Return that there is no limit."""


def lines_of(content: bytes) -> Callable[[memoryview], int]:
    """Return a body's readinto."""
    return io.BytesIO(content).readinto


class Source(io.BytesIO):
    """A body with lines."""

    def read_line(self, _limit: int) -> bytes:
        """Return the next line."""
        return self.readline().removesuffix(b"\r\n")


def form(fields: bytes) -> None:
    """Read a form and make a PUT of it."""
    reader = FormReader(lines_of(fields + b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\n\r\n--x--'), "x")
    put_head(HEAD, reader.read_fields(), "b")


def field(name: bytes, value: bytes) -> bytes:
    """Return one field of a form."""
    return b'--x\r\nContent-Disposition: form-data; name="' + name + b'"\r\n\r\n' + value + b"\r\n"


HEAD = parse_head(b"POST /b HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=x")


def trickled_form(content: bytes) -> None:
    """Read a form whose bytes come one by one."""
    source = io.BytesIO(content)
    FormReader(lambda view: source.readinto(view[:1]), "x").read_fields()


def aws_trailer(content: bytes) -> None:
    """Read the trailer of an empty aws-chunked body."""
    reader = AwsChunkedReader(lines_of(b"0\r\n" + content), length=0, seed=None, trailer="x-amz-checksum-crc32")
    reader.readinto(memoryview(bytearray(10)))


def chunked(content: bytes) -> None:
    """Read a chunked body."""
    reader = ChunkedReader(Source(content))  # type: ignore[arg-type]
    buffer = memoryview(bytearray(100))
    while reader.readinto(buffer):
        continue


def head_line(content: bytes) -> None:
    """Read a request head with a line in it."""
    read_claim(parse_head(b"GET /b HTTP/1.1\r\nHost: x\r\nAuthorization: AWS4-HMAC-SHA256 " + content))


CASES: dict[str, tuple[Callable[[bytes], object], Callable[[int], bytes], int]] = {
    "unclosed CDATA": (parse, lambda n: b"<Error>&#1;" + b"<![CDATA[" * (n // 9), 16_000),
    "closed CDATA": (parse, lambda n: b"<Error>&#1;" + b"<![CDATA[]]>" * (n // 12) + b"</Error>", 16_000),
    "references": (parse, lambda n: b"<a>" + b"&#x1;" * (n // 5) + b"</a>", 16_000),
    "cut references": (parse, lambda n: b"<a>&#1;" + b"&#x00000" * (n // 8), 16_000),
    "nested": (parse, lambda n: b"<a>" * (n // 3), 16_000),
    "flat": (parse, lambda n: b"<a>" + b"<b/>" * (n // 4) + b"</a>", 16_000),
    "attributes": (parse, lambda n: b"<a " + b"".join(b'a%d="" ' % i for i in range(n // 8)) + b"/>", 16_000),
    "blanks before an error": (documents.is_error, lambda n: b" " * n + b"x", 4_000),
    "blanks behind a declaration": (
        documents.is_error,
        lambda n: b'<?xml version="1.0"?>' + b" " * n + b"<Error",
        4_000,
    ),
    "error": (documents.parse_error, lambda n: b"<Error>&#1;" + b"<![CDATA[" * (n // 9), 16_000),
    "error page": (documents.parse_error, lambda n: b"<html>" + b"<p>" * (n // 3), 16_000),
    "list page": (pages.parse_list_page, lambda n: b"<ListBucketResult>" + b"<Contents><Key>" * (n // 15), 16_000),
    "list page of blanks": (pages.parse_list_page, lambda n: b"\n" * n + b"<ListBucketResult", 16_000),
    "tags of a form": (form, lambda n: field(b"tagging", b"<a>&#1;" + b"<![CDATA[" * (n // 9)), 2_000),
    "fields of a form": (form, lambda n: b"".join(field(b"f%d" % i, b"") for i in range(n)), 60),
    "trickled form": (trickled_form, lambda n: field(b"key", b"x" * n), 3_000),
    "parameters of a part": (form, lambda n: b"--x\r\ncontent-disposition: form-data" + b"; " * n + b"\r\n\r\n", 100),
    "policy": (
        lambda text: read_policy(text.decode()),
        lambda n: base64.b64encode(b'{"expiration": "x", "conditions": [' + b'["a","$b","c"],' * n + b"1]}"),
        100,
    ),
    "nested policy": (
        lambda text: read_policy(text.decode()),
        lambda n: base64.b64encode(b'{"conditions": ' + b"[" * n),
        2_000,
    ),
    "trickled head": (
        lambda text: ClientStream(Trickle(text)).read_head(idle_s=1.0, head_s=100.0),  # type: ignore[arg-type]
        lambda n: b"GET / HTTP/1.1\r\nX: " + b"x" * n,
        2_000,
    ),
    "trailer": (aws_trailer, lambda n: b"x:" + b" " * n + b"\x01\r\n", 240),
    "trailers": (aws_trailer, lambda n: b"a:b\r\n" * n, 1_000),
    "chunks": (chunked, lambda n: b"1;x=y\r\na\r\n" * n, 500),
    "chunk line": (chunked, lambda n: b"1" + b" " * n + b"x\r\n", 250),
    "blanks in Authorization": (head_line, lambda n: b"Credential=" + b" " * n + b"x", 1_500),
    "words in Authorization": (head_line, lambda n: b"Credential=a," * (n // 13), 1_500),
    "answer's line": (
        lambda text: parse_answer_head(text.decode(), "GET", "x"),
        lambda n: b"HTTP/1.1 200 OK\r\nX:" + b" " * n + b"\0",
        4_000,
    ),
    "answer's lengths": (
        lambda text: parse_answer_head(text.decode(), "GET", "x"),
        lambda n: b"HTTP/1.1 200 OK\r\nContent-Length: " + b"1," * n,
        2_000,
    ),
    "date": (lambda text: parse_http_date(text.decode()), lambda n: b" " * n + b"x" + b" " * n, 4_000),
    "glob": (lambda text: compile_glob("*a*a*a*a*b")(text.decode()), lambda n: b"a" * n, 500),
}


def seconds_of(run: Callable[[bytes], object], content: bytes) -> float:
    """Return the processor time that one run takes; what is refused is refused."""
    started = time.thread_time()
    with contextlib.suppress(S3PoolError):
        run(content)
    return time.thread_time() - started


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_sixteen_times_as_much_takes_twenty_times_as_long(
    case: tuple[Callable[[bytes], object], Callable[[int], bytes], int],
) -> None:
    """A regex that goes back, or a buffer that is looked through for every byte, takes 256 times as long."""
    run, content, size = case
    small, large = content(size), content(GROWTH * size)
    least_small = least_large = 1e9
    for _ in range(ROUNDS):
        least_small = min(least_small, seconds_of(run, small))
        least_large = min(least_large, seconds_of(run, large))
        if least_large <= ALLOWED * max(least_small, LEAST_S):
            return
    raise AssertionError(f"{least_small * 1000:.2f} ms became {least_large * 1000:.2f} ms")


@pytest.mark.parametrize("content", [b"<a>" * (3 * MIB), b"<a>" + b"<b/>" * (2 * MIB) + b"</a>"])
def test_memory_of_a_document_has_a_bound(content: bytes) -> None:
    """9 MB of elements took 900 MiB."""
    import tracemalloc

    tracemalloc.start()
    try:
        with pytest.raises(S3PoolError):
            parse(content)
        assert tracemalloc.get_traced_memory()[1] < 64 * MIB
    finally:
        tracemalloc.stop()


def test_long_error_is_no_error_of_s3() -> None:
    """Its code is what its status says."""
    assert ("", "", "", "") == documents.parse_error(b"<Error><Code>X</Code>" + b" " * 70_000 + b"</Error>")
