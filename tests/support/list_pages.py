"""Pages of listings as real servers write them, and an endless supply of damaged ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random

HEADS = {
    "aws": (
        '<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        "<Name>bkt</Name><Prefix></Prefix><KeyCount>2</KeyCount><MaxKeys>1000</MaxKeys>{encoding}"
        "<IsTruncated>true</IsTruncated><NextContinuationToken>t=</NextContinuationToken>"
    ),
    "rgw": (
        '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        "{encoding}<Name>bkt</Name><Prefix></Prefix><MaxKeys>1000</MaxKeys><IsTruncated>true</IsTruncated>"
    ),
    "minio": (
        '<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        "<Name>bkt</Name><Prefix/><NextContinuationToken>t</NextContinuationToken><KeyCount>2</KeyCount>"
        "<MaxKeys>1000</MaxKeys><Delimiter></Delimiter><IsTruncated>true</IsTruncated>"
    ),
    "versitygw": (
        '<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        "<Name>bkt</Name><Prefix></Prefix><NextContinuationToken>t</NextContinuationToken><KeyCount>2</KeyCount>"
        "<MaxKeys>1000</MaxKeys><IsTruncated>true</IsTruncated>"
    ),
}
V1_HEAD = (
    '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
    "<Name>bkt</Name><Prefix/><Marker></Marker><NextMarker>b%20</NextMarker><MaxKeys>1000</MaxKeys>{encoding}"
    "<IsTruncated>true</IsTruncated>"
)
BLOCKS = {
    "aws": (
        "<Contents><Key>{key}</Key><LastModified>2026-01-2{digit}T20:44:33.000Z</LastModified>"
        '<ETag>"9dd4e461268c8034f5c8564e155c67a6-2{size}"</ETag><ChecksumAlgorithm>CRC64NVME</ChecksumAlgorithm>'
        "<ChecksumType>FULL_OBJECT</ChecksumType><Size>{size}</Size><StorageClass>{storage}</StorageClass></Contents>"
    ),
    "rgw": (
        "<Contents><Key>{key}</Key><LastModified>2026-01-2{digit}T20:44:33.219Z</LastModified>"
        "<ETag>&quot;9dd4e461268c8034f5c8564e155c67a6&quot;</ETag><Size>{size}</Size>"
        "<StorageClass>{storage}</StorageClass><Type>Normal</Type></Contents>"
    ),
    "minio": (
        "<Contents><Key>{key}</Key><LastModified>2026-01-2{digit}T20:44:33.219Z</LastModified>"
        "<ETag>&#34;9dd4e461268c8034f5c8564e155c67a6&#34;</ETag><Size>{size}</Size>"
        "<Owner><ID>02d6176d</ID><DisplayName>minio</DisplayName></Owner><StorageClass>{storage}</StorageClass></Contents>"
    ),
    "versitygw": (
        "<Contents><LastModified>2026-01-2{digit}T20:44:33Z</LastModified><ChecksumAlgorithm>CRC64NVME</ChecksumAlgorithm>"
        "<ChecksumType>FULL_OBJECT</ChecksumType><ETag>&#34;9dd4e461268c8034f5c8564e155c67a6&#34;</ETag>"
        "<Key>{key}</Key><Size>{size}</Size><StorageClass>{storage}</StorageClass></Contents>"
    ),
}
TAILS = {
    "aws": "<CommonPrefixes><Prefix>p%2F</Prefix></CommonPrefixes></ListBucketResult>",
    "rgw": "<NextContinuationToken>a&#x01;</NextContinuationToken><KeyCount>2</KeyCount></ListBucketResult>",
    "minio": "<CommonPrefixes><Prefix>p/</Prefix></CommonPrefixes>{encoding}</ListBucketResult>\n",
    "versitygw": "<CommonPrefixes><Prefix>p/</Prefix></CommonPrefixes>{encoding}</ListBucketResult>",
}
VERSION = (
    "<Version><Key>{key}</Key><VersionId>v.1-_</VersionId><IsLatest>{latest}</IsLatest>"
    "<LastModified>2026-01-22T20:44:33.219Z</LastModified><ETag>&quot;abc&quot;</ETag><Size>3</Size>"
    "<StorageClass>COLD</StorageClass><Owner><ID>o</ID><DisplayName>o</DisplayName></Owner><Type>Normal</Type></Version>"
)
MARKER = (
    "<DeleteMarker><Key>{key}</Key><VersionId>m</VersionId><IsLatest>{latest}</IsLatest>"
    "<LastModified>2026-01-22T20:44:33.219Z</LastModified><Owner><ID>o</ID><DisplayName>o</DisplayName></Owner>"
    "</DeleteMarker>"
)
URL = "<EncodingType>url</EncodingType>"
SERVERS = sorted(HEADS)

KEY_PIECES = (
    *("a", "b", "z9", " ", "%2F", "%20", "+", "%C3%A9", "%c3", "%25", "%4", "%%", "%3D", "=", "=41", "%2541"),
    *("%0A", "%0D", "%00", "%01", "%", "&amp;", "&lt;", "&quot;", "&apos;", "&amp;lt;", "&#65;", "&#x1;", "&#10;"),
    *("é", "]]", "]]&gt;", "\U0001f600", "\ufffe", "\x7f", "\x85", "\u2028", "~", "'", '"', "%EF%BF%BE", "%ED%A0%80"),
)
FRAGMENTS = (
    *(bytes([byte]) for byte in b'<>&/%"= \n\r\t\x00\x01\x7f\xff'),
    *(b"&amp;", b"&#65;", b"&#x1;", b"&#x41;", b"&x;", b"\xef\xbf\xbe", b"\xc2\x85", b"]]>", b"\xef\xbb\xbf"),
    *(b" xmlns='u'", b' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"', b" a='b'", b"<x:Key>", b"&quot;", b"&#34;"),
    *(b"&#56;", b"0", b"2026-01-22T20:44:33.219Z", b"STANDARD", b"<Contents>", b"</Contents>", b"<Contents/>"),
    *(b"<Key>", b"</Key>", b"<Key/>", b"<Size>1</Size>", b"<x/>", b"<x>y</x>", b"<!-- c -->", b"<![CDATA[x]]>"),
    *(b"<?pi x?>", b"<!DOCTYPE x>", b"<IsTruncated>false</IsTruncated>", b"<KeyCount>1</KeyCount>", URL.encode()),
    *(b"<Marker/>", b"<NextMarker>n</NextMarker>", b"<CommonPrefixes><Prefix>q/</Prefix></CommonPrefixes>"),
    *(b"<Owner><ID>i</ID><DisplayName>n</DisplayName></Owner>", b"<Owner><ID>i</ID></Owner>", b"<Type>x</Type>"),
    *(b"<StorageClass>COLD</StorageClass>", b"<ETag>e</ETag>", b"<VersionId>null</VersionId>"),
    b"<Contents><Key>z</Key><LastModified>2026-01-22T20:44:33.219Z</LastModified><Size>1</Size></Contents>",
)
# What servers write differently, and what is nearly that.
EXCHANGES = (
    *((b"&quot;", b"&#34;"), (b"&quot;", b'"'), (b"&quot;", b""), (b"&#34;", b"&quot;"), (b'"</ETag>', b"</ETag>")),
    *((b"STANDARD", b"COLD"), (b"STANDARD", b""), (b"STANDARD", b"A&amp;B"), (b"Normal", b""), (b"minio", b"m&#105;")),
    *((b"33.219Z", b"33Z"), (b"33.000Z", b"33.000+00:00"), (b"2026-01-2", b"x026-01-2"), (b"T20:", b" 20:")),
    *(
        (b"<Key>", b"<Key><![CDATA["),
        (b"<Key>a", b"<Key><![CDATA[a]]>"),
        (b"<Key>", b"<Key >"),
        (b"</Key>", b"</Key >"),
    ),
    *((b"<Key>", b"<Key xmlns=''>"), (b"<Contents>", b"<Contents\n>"), (b"<Contents>", b"<c:Contents xmlns:c='u'>")),
    *((b"<Contents>", b"<Version>"), (b"<Version>", b"<DeleteMarker>"), (b"true", b"false"), (b"true", b"True")),
    *((b"<Size>0</Size>", b""), (b"<Size>0</Size>", b"<Size>00</Size>"), (b"<Size>7", b"<Size>7777777777777777777")),
    *((b"<Size>", b"<Size>+"), (b"<Size>", b"<Size>\xd9\xa0"), (b"<Key>", b"<Key></Key><Key>"), (b"url", b"URL")),
    *(
        (b"utf-8", b"UTF-8"),
        (b"UTF-8", b"utf-8"),
        (b"UTF-8", b"ISO-8859-1"),
        (b"UTF-8", b"UTF-16"),
        (b'"1.0"', b"'1.0'"),
    ),
    *((b"http://s3.amazonaws.com/doc/2006-03-01/", b"urn:x"), (b" xmlns=", b" xmlns:s="), (b"ListBucketResult", b"L")),
    *(
        (b"</Type>", b"&unknown;</Type>"),
        (b"</Key><", b"</Key><Type>T0</Type><"),
        (b"T0", b"T1"),
        (b"</Key>", b"]]></Key>"),
    ),
    *((b"<Owner>", b"<Owner><X/>"), (b"<DisplayName>minio</DisplayName>", b""), (b"<ID>", b"<ID> "), (b"><", b"> <")),
)
TAGS = (b"Key", b"Size", b"ETag", b"StorageClass", b"Type", b"Owner", b"LastModified", b"IsLatest", b"VersionId", b"ID")
ENDS_OF_TEXT = (b"</Key>", b"</Type>", b"</ETag>", b"</ListBucketResult>", b"</ListVersionsResult>")
COUNTS = (0, 1, 1, 2, 2, 3, 5)  # of keys
DAMAGES = (0, 1, 1, 1, 2, 3)


def page(server: str, keys: Sequence[str], *, encoding: str = URL, storage: str = "STANDARD", head: str = "") -> bytes:
    """Write a page as a server does."""
    blocks = "".join(
        BLOCKS[server].format(key=key, size=index * 7, digit=index % 10, storage=storage)
        for index, key in enumerate(keys)
    )
    head = (head or HEADS[server]).format(encoding=encoding)
    return (head + blocks + TAILS[server].format(encoding=encoding)).encode()


def versions_page(blocks: Sequence[str], *, encoding: str = URL) -> bytes:
    """Write a page of versions; each block is VERSION, MARKER, or like them, with {key} and {latest}."""
    inner = "".join(
        block.format(key=f"k%20{index}", latest=str(index == 0).lower()) for index, block in enumerate(blocks)
    )
    return f"<ListVersionsResult>{encoding}<IsTruncated>false</IsTruncated>{inner}</ListVersionsResult>".encode()


def iter_damaged_pages(random: Random) -> Iterator[bytes]:
    """Yield pages of up to five keys with up to three damages, without end."""
    body = b""
    while True:
        other, body = body, _whole_page(random)
        for _ in range(random.choice(DAMAGES)):
            body = _damaged(body, random, other)
        yield body


def _whole_page(random: Random) -> bytes:
    server, kind = random.choice(SERVERS), random.random()
    encoding = random.choice((URL, URL, "", "<EncodingType/>"))
    if kind < 0.2:
        blocks = [random.choice((VERSION, VERSION, MARKER)) for _ in range(random.choice(COUNTS))]
        return versions_page(blocks, encoding=encoding).replace(b"k%20", _key(random).encode())
    keys = [_key(random) for _ in range(random.choice(COUNTS))]
    return page(server, keys, encoding=encoding, head=V1_HEAD if kind < 0.4 else "")


def _key(random: Random) -> str:
    # Mostly harmless ones, or nearly no page would be left to the fast parser.
    count = random.randrange(1, 4)
    return f"k{random.randrange(100)}" if random.random() < 0.6 else "".join(random.choices(KEY_PIECES, k=count))


def _damaged(body: bytes, random: Random, other: bytes) -> bytes:
    """Damage a page at one place; ``other`` is a page of which a piece may come."""
    # Exchanges are as many as all others together: they leave most pages readable.
    at, kind = random.randrange(len(body) + 1), random.randrange(16)
    if kind < 3:
        # Between elements, and at the end of a text, more is lawful than within the names of elements.
        at = (at, max(0, body.find(b"<", at)), max(0, body.find(random.choice(ENDS_OF_TEXT), at)))[kind]
        return body[:at] + random.choice(FRAGMENTS) + body[at:]
    if kind == 3:
        return body[:at] + body[at + random.randrange(1, 60) :]
    if kind == 4:
        return body[:at] + bytes(byte ^ random.randrange(1, 256) for byte in body[at : at + 1]) + body[at + 1 :]
    if kind == 5:
        return body[:at] + body[at : at + random.randrange(1, 300)] + body[at:]
    if kind == 6:
        return body[:at] + body[at:].replace(random.choice(TAGS), random.choice(TAGS), random.randrange(1, 4))
    if kind == 7:
        end = at + random.randrange(1, 100)
        return body[:at] + other[at:end] + body[end:]
    old, new = random.choice(EXCHANGES)
    return body.replace(old, new) if random.random() < 0.5 else body[:at] + body[at:].replace(old, new, 1)
