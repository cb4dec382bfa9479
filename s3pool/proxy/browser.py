"""What a browser must not do here for a page of somebody else.

Any page can send requests to loopback, and a name of its own that leads here (DNS rebinding)
lets it read the answers. Browsers say whose page it is (Fetch Metadata; RFC 6454, Origin), and a
name that nobody configured says the rest.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection

from s3pool.proxy.denial import forbidden
from s3pool.proxy.head import RequestHead

OWN_SITES = frozenset({"same-origin", "none"})


def refuse_foreign_pages(head: RequestHead, names: Collection[str]) -> None:
    """Refuse a request of another site's page, or to a name that is not this proxy's.

    Raises:
        Denial: it is one.
    """
    if head.host and not _is_own(head.host, names):
        detail = f"the Host {head.host} is no address, not localhost and not configured; see --allowed-host"
        raise forbidden("AccessDenied", detail, reason="foreign_host")
    sites = {value.lower() for value in head.values("sec-fetch-site")}
    origins = {value.lower().partition("://")[2] for value in head.values("origin")}
    if not sites <= OWN_SITES or not origins <= {head.host.lower()}:
        raise forbidden("AccessDenied", "another site's page may not do this", reason="foreign_page")


def _is_own(host: str, names: Collection[str]) -> bool:
    name = host.lower()
    name = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
    if name == "localhost" or any(name == other or name.endswith(f".{other}") for other in names):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
