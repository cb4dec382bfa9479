"""A client with one planted flaw, to prove that the oracle sees it: ``planted.py FLAW mv FILE s3/BUCKET/KEY``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import quote, urlsplit


def main() -> int:
    """Do what the words say, with the flaw."""
    flaw, verb, *words = sys.argv[1:]
    source, target = [word for word in words if not word.startswith("--")]
    body = Path(source).read_bytes()
    if flaw == "deletes-first":
        os.unlink(source)
        return 1
    if flaw == "hangs":
        time.sleep(60)
    if flaw == "leaves-upload":
        ask("POST", f"{target}?uploads")
    if flaw != "copies-nothing":
        ask("PUT", target, body[: len(body) // 2] if flaw == "cuts" else body)
    if flaw == "touches-others":
        ask("PUT", f"{target}-other", body)
    if flaw == "leaves-temporary":
        Path(".s3pool-0123456789ab.part").write_bytes(b"rubbish")
    if flaw == "leaves-process":
        subprocess.Popen(["sleep", "30"])
    if verb == "mv":
        os.unlink(source)
    return told(flaw, source, target)


def told(flaw: str, source: str, target: str) -> int:
    """Report the end, with the flaws that are in words alone."""
    line = {"type": "copy", "source": source, "target": target + ("-not" if flaw == "false-line" else "")}
    print(json.dumps(line))
    count = 2 if flaw == "false-count" else 1
    print(json.dumps({"type": "summary", "copied": count, "deleted": 0, "failed": 0}))
    if flaw == "traceback":
        raise ValueError("planted")
    if flaw == "internal-error":
        print("s3pool: error: ValueError: planted", file=sys.stderr)
    if flaw == "secret":
        print(os.environ["AWS_SECRET_ACCESS_KEY"], file=sys.stderr)
    if flaw == "error-and-zero":
        print(json.dumps({"type": "error", "source": source, "message": "planted"}), file=sys.stderr)
    return 99 if flaw == "odd-code" else 0


def ask(method: str, place: str, body: bytes = b"") -> None:
    """Send one request to the first node."""
    url = urlsplit(os.environ["S3_POOL"].split(",")[0])
    connection = HTTPConnection(url.hostname or "", url.port or 80)
    path, mark, query = place.removeprefix("s3").partition("?")
    connection.request(method, quote(path) + mark + query, body)
    connection.getresponse().read()
    connection.close()


if __name__ == "__main__":
    raise SystemExit(main())
