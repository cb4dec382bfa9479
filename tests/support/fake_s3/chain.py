"""A listing without end and without store: pages made as they are asked for."""

from __future__ import annotations

import ssl

from tests.support.fake_s3.call import Quirks, error_reply, operation_of, split_target
from tests.support.fake_s3.listings import document, element, read_number
from tests.support.fake_s3.store import S3Fault
from tests.support.fake_s3.wire import Exchange, Node, Reply

PAGE_KEYS = 1000
_ROW = (
    "<Contents><Key>{key}</Key><LastModified>2026-01-22T20:44:33.219Z</LastModified>"
    "<ETag>&quot;d41d8cd98f00b204e9800998ecf8427e&quot;</ETag><Size>{size}</Size>"
    "<StorageClass>STANDARD</StorageClass></Contents>"
)


class ChainS3:
    """A bucket of ``count`` keys that exist only on the pages; a context that ends its nodes.

    Key number i is ``prefix + 12 digits`` and has ``i % 1000`` bytes. It answers
    ListObjectsV2 by start-after and token, with any prefix of the keys, and HEAD of the bucket.
    """

    def __init__(
        self, count: int, *, endpoints: int = 1, prefix: str = "logs/", tls: ssl.SSLContext | None = None
    ) -> None:
        self.count = count
        self.prefix = prefix
        self.pages = 0
        self.nodes = tuple(Node(self._answer, index=index, tls=tls) for index in range(endpoints))

    @property
    def endpoints(self) -> tuple[str, ...]:
        """Give the URLs of all nodes."""
        return tuple(node.url for node in self.nodes)

    @property
    def environment(self) -> dict[str, str]:
        """Give the variables with which s3pool finds the chain."""
        return {"S3_POOL": ",".join(self.endpoints), "AWS_ACCESS_KEY_ID": "chain", "AWS_SECRET_ACCESS_KEY": "chain"}

    def key(self, number: int) -> str:
        """Give the key with a number, from 0."""
        return f"{self.prefix}{number:012d}"

    def size(self, number: int) -> int:
        """Give the size of a key."""
        return number % PAGE_KEYS

    def stop(self) -> None:
        """End every node."""
        for node in self.nodes:
            node.stop()

    def __enter__(self) -> ChainS3:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _answer(self, exchange: Exchange) -> Reply:
        if exchange.target == Quirks.health_path:
            return Reply(200)
        bucket, key, query = split_target(exchange)
        op = operation_of(exchange, bucket, key, query)
        if op == "HeadBucket":
            return Reply(200)
        if op != "ListObjectsV2":
            fault = S3Fault(501, "NotImplemented", f"a chain does not know {op}")
            return error_reply(fault, bucket=bucket, request_id="chain", silent=False)
        return self._page(query)

    def _page(self, query: dict[str, str]) -> Reply:
        self.pages += 1
        limit = read_number(query.get("max-keys", ""), "max-keys", PAGE_KEYS)
        after = query.get("continuation-token") or query.get("start-after", "")
        wanted = query.get("prefix", "")
        first = max(self._first_after(after), self._first_from(wanted))
        last = self._first_after(wanted + "\U0010ffff") if wanted else self.count
        end = min(first + limit, last)
        truncated = end < last and limit > 0
        rows = "".join(_ROW.format(key=self.key(i).replace("/", "%2F"), size=self.size(i)) for i in range(first, end))
        token = element("NextContinuationToken", self.key(end - 1)) if truncated else ""
        head = element("IsTruncated", str(truncated).lower()) + element("MaxKeys", limit) + element("Name", "chain")
        count = element("KeyCount", max(0, end - first)) + element("EncodingType", "url")
        return Reply(200, document("ListBucketResult", head, rows, token, count), {"Content-Type": "application/xml"})

    def _first_from(self, name: str) -> int:
        return self._bisect(lambda key: key >= name)

    def _first_after(self, name: str) -> int:
        return self._bisect(lambda key: key > name)

    def _bisect(self, holds) -> int:  # type: ignore[no-untyped-def]
        low, high = 0, self.count
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if holds(self.key(middle)) else (middle + 1, high)
        return low
