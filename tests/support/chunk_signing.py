"""aws-chunked bodies as clients write them, put together independently of the proxy's reader."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
import zlib

from s3pool.model import Credentials
from s3pool.s3.signing import derive_key
from tests.support.proxying import POOL_KEY, REGION, signed_request

EMPTY = hashlib.sha256(b"").hexdigest()
PLAIN = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
POLYNOMIALS = {"crc32c": (0x1EDC6F41, 32), "crc64nvme": (0xAD93D23594C93659, 64)}


def checksum(algorithm: str, content: bytes) -> str:
    """Give S3's text for a checksum; the rarer CRCs bit by bit, straight from their definition."""
    if algorithm == "crc32":
        return base64.b64encode(zlib.crc32(content).to_bytes(4, "big")).decode()
    if algorithm in ("sha1", "sha256", "sha512", "md5"):
        return base64.b64encode(hashlib.new(algorithm, content).digest()).decode()
    polynomial, bits = POLYNOMIALS[algorithm]
    mask, value = (1 << bits) - 1, (1 << bits) - 1
    for byte in content:
        reflected = int(f"{byte:08b}"[::-1], 2)
        value ^= reflected << (bits - 8)
        for _ in range(8):
            value = ((value << 1) ^ (polynomial if value >> (bits - 1) else 0)) & mask
    value = int(f"{value:0{bits}b}"[::-1], 2) ^ mask
    return base64.b64encode(value.to_bytes(bits // 8, "big")).decode()


class SignedStream:
    """A PUT whose chunks are signed, with a signed CRC-32 trailer if asked."""

    def __init__(self, host: str, target: str, content: bytes, *, chunk: int, has_trailer: bool = False) -> None:
        self._host = host
        self._target = target
        self._content = content
        self._chunk = chunk
        self._has_trailer = has_trailer
        self._now = time.time()

    def head_for(self, length: int) -> bytes:
        """Give the signed head of a framed body of that length."""
        headers = {
            "x-amz-decoded-content-length": str(len(self._content)),
            "Content-Encoding": "aws-chunked",
            **({"x-amz-trailer": "x-amz-checksum-crc32"} if self._has_trailer else {}),
        }
        payload = PLAIN + ("-TRAILER" if self._has_trailer else "")
        head = signed_request("PUT", self._target, host=self._host, headers=headers, payload=payload, now=self._now)
        return head.replace(b"content-length: 0\r\n", b"connection: close\r\ncontent-length: %d\r\n" % length)

    def request(self) -> tuple[bytes, bytes]:
        """Give head and framed body."""
        framed = b"".join(self.chunks())
        return self.head_for(len(framed)), framed

    def chunks(self) -> list[bytes]:
        """Give the framed body in its chunks, the last one with the trailer."""
        head = self.head_for(0)
        previous = head.partition(b"Signature=")[2][:64].decode()
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self._now))
        scope = f"{stamp[:8]}/{REGION}/s3/aws4_request"
        key = derive_key(POOL_KEY.secret_key, stamp[:8], region=REGION, service="s3")
        pieces = [self._content[at : at + self._chunk] for at in range(0, len(self._content), self._chunk)]
        framed = []
        for piece in [*pieces, b""]:
            text = f"{PLAIN.removeprefix('STREAMING-')}\n{stamp}\n{scope}\n{previous}\n{EMPTY}\n"
            text += hashlib.sha256(piece).hexdigest()
            previous = hmac.new(key, text.encode(), "sha256").hexdigest()
            framed.append(b"%x;chunk-signature=%b\r\n%b\r\n" % (len(piece), previous.encode(), piece))
        if self._has_trailer:
            line = f"x-amz-checksum-crc32:{checksum('crc32', self._content)}\n"
            text = (
                f"AWS4-HMAC-SHA256-TRAILER\n{stamp}\n{scope}\n{previous}\n{hashlib.sha256(line.encode()).hexdigest()}"
            )
            last = hmac.new(key, text.encode(), "sha256").hexdigest()
            framed[-1] = framed[-1][:-2] + f"{line}\r\nx-amz-trailer-signature:{last}\r\n\r\n".encode()
        return framed


def unsigned_stream(
    host: str, target: str, content: bytes, *, algorithm: str = "crc32", value: str = "", key: Credentials = POOL_KEY
) -> tuple[bytes, bytes]:
    """Give head and framed body of a PUT in the form that SDKs use over HTTPS; ``value`` is a known checksum."""
    name = f"x-amz-checksum-{algorithm}"
    headers = {
        "x-amz-decoded-content-length": str(len(content)),
        "Content-Encoding": "aws-chunked",
        "x-amz-trailer": name,
        "x-amz-sdk-checksum-algorithm": algorithm.upper(),
    }
    framed = b"%x\r\n%b\r\n0\r\n%b:%b\r\n\r\n" % (
        len(content),
        content,
        name.encode(),
        (value or checksum(algorithm, content)).encode(),
    )
    if not content:
        framed = framed.removeprefix(b"0\r\n\r\n")
    payload = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
    head = signed_request("PUT", target, host=host, headers=headers, payload=payload, key=key)
    length = b"\r\nconnection: close\r\ncontent-length: %d\r\n" % len(framed)
    return head.replace(b"\r\ncontent-length: 0\r\n", length), framed
