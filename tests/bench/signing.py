"""Sign GET requests for a load generator: AWS Signature Version 4, written from its specification.

It is not s3pool's own signer on purpose: the proxy has to agree with somebody else's.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Mapping

from tests.bench.tools import ACCESS_KEY, REGION, SECRET_KEY

PAYLOAD = "UNSIGNED-PAYLOAD"
SIGNED = "host;x-amz-content-sha256;x-amz-date"


def signed_headers(path: str, *, host: str, now: float) -> Mapping[str, str]:
    """Give the headers of a signed GET; the path needs no encoding."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    scope = f"{stamp[:8]}/{REGION}/s3/aws4_request"
    canonical = f"GET\n{path}\n\nhost:{host}\nx-amz-content-sha256:{PAYLOAD}\nx-amz-date:{stamp}\n\n{SIGNED}\n{PAYLOAD}"
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    key = f"AWS4{SECRET_KEY}".encode()
    for word in scope.split("/"):
        key = hmac.digest(key, word.encode(), "sha256")
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    return {
        "Host": host,
        "X-Amz-Content-Sha256": PAYLOAD,
        "X-Amz-Date": stamp,
        "Authorization": (
            f"AWS4-HMAC-SHA256 Credential={ACCESS_KEY}/{scope},SignedHeaders={SIGNED},Signature={signature}"
        ),
    }
