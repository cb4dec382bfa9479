"""Browsers' upload forms, put together and signed independently of the proxy's reader."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Mapping, Sequence

from s3pool.model import Credentials
from s3pool.s3.signing import derive_key
from tests.support.proxying import POOL_KEY, REGION, Answer, RunningProxy, parse_answer

BOUNDARY = "----WebKitFormBoundary7MA4YWxk"
CONTENT = b"\r\n--\r\n------WebKitFormBoundary7MA4YWxx the file \x00\xff\r\n"


def policy_text(conditions: Sequence[object], *, expires_in_s: float = 3600.0) -> str:
    """Give a policy as it stands in its field."""
    expiration = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + expires_in_s))
    return base64.b64encode(json.dumps({"expiration": expiration, "conditions": conditions}).encode()).decode()


def signed_form(
    fields: Mapping[str, str],
    *,
    conditions: Sequence[object] = (),
    expires_in_s: float = 3600.0,
    key: Credentials = POOL_KEY,
    policy: str = "",
) -> dict[str, str]:
    """Give the fields of a form with a policy that allows just them, signed by Version 4."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    credential = f"{key.access_key}/{stamp[:8]}/{REGION}/s3/aws4_request"
    auth = {"x-amz-algorithm": "AWS4-HMAC-SHA256", "x-amz-credential": credential, "x-amz-date": stamp}
    allowed = [{name: value} for name, value in {**fields, **auth}.items()]
    text = policy or policy_text([{"bucket": "b"}, *allowed, *conditions], expires_in_s=expires_in_s)
    signing_key = derive_key(key.secret_key, stamp[:8], region=REGION, service="s3")
    return {
        **fields,
        **auth,
        "policy": text,
        "x-amz-signature": hmac.new(signing_key, text.encode(), "sha256").hexdigest(),
    }


def signed_form_v2(fields: Mapping[str, str], *, key: Credentials = POOL_KEY) -> dict[str, str]:
    """Give the fields of a form signed by Version 2."""
    text = policy_text([{"bucket": "b"}, *({name: value} for name, value in fields.items())])
    signature = base64.b64encode(hmac.new(key.secret_key.encode(), text.encode(), hashlib.sha1).digest()).decode()
    return {**fields, "AWSAccessKeyId": key.access_key, "policy": text, "signature": signature}


def form_body(fields: Mapping[str, str], content: bytes | None = CONTENT, *, name: str = "a b.txt") -> bytes:
    """Give the body of a form; without content it has no file."""
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"\r\n\r\n{value}\r\n'.encode()
        for field, value in fields.items()
    ]
    if content is not None:
        head = f'Content-Disposition: form-data; name="file"; filename="{name}"\r\nContent-Type: text/plain'
        parts.append(f"--{BOUNDARY}\r\n{head}\r\n\r\n".encode() + content + b"\r\n")
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


def form_request(proxy: RunningProxy, body: bytes, *, target: str = "/b", fields: Sequence[str] = ()) -> bytes:
    """Give the bytes of a POST with that body."""
    lines = [
        f"POST {target} HTTP/1.1",
        f"Host: {proxy.host}",
        f"Content-Type: multipart/form-data; boundary={BOUNDARY}",
        f"Content-Length: {len(body)}",
        *fields,
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def post(proxy: RunningProxy, form: Mapping[str, str], content: bytes | None = CONTENT) -> Answer:
    """Send a form on a new connection."""
    return parse_answer(proxy.talk(form_request(proxy, form_body(form, content))))
