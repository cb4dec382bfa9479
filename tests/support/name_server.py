"""A name server on loopback whose answers a test changes while it runs."""

from __future__ import annotations

import socket
import threading

import dns.flags
import dns.message
import dns.rcode
import dns.rrset

POLL_S = 0.1


class NameServer:
    """Answers by UDP; a context that ends it.

    ``records`` holds the values by name and kind: ``{("s3.test", "A"): ["127.0.0.2"]}``. A
    name without records does not exist. ``mode`` may be "silent" or "fails".
    """

    def __init__(self, *, ttl_s: int = 1) -> None:
        self.records: dict[tuple[str, str], list[str]] = {}
        self.ttl_s = ttl_s
        self.mode = ""
        self.asked: list[tuple[str, str]] = []
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sock.bind(("127.0.0.1", 0))
        self._sock.settimeout(POLL_S)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="name-server", daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        """Give the address and the port, as ``--resolver`` takes them."""
        return f"127.0.0.1:{self._sock.getsockname()[1]}"

    def set(self, name: str, kind: str, values: list[str]) -> None:
        """Let a name have these records of a kind, none when the list is empty."""
        self.records[name, kind] = values

    def __enter__(self) -> NameServer:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._sock.close()

    def _serve(self) -> None:
        while not self._ended.is_set():
            try:
                packet, sender = self._sock.recvfrom(4096)
            except TimeoutError:
                continue
            answer = self._answer(dns.message.from_wire(packet))
            if self.mode != "silent":
                self._sock.sendto(answer.to_wire(), sender)

    def _answer(self, query: dns.message.Message) -> dns.message.Message:
        question = query.question[0]
        name, kind = question.name.to_text(omit_final_dot=True), question.rdtype.name
        self.asked.append((name, kind))
        answer = dns.message.make_response(query)
        answer.flags |= dns.flags.RA
        if self.mode == "fails":
            answer.set_rcode(dns.rcode.SERVFAIL)
        elif values := self.records.get((name, kind)):
            answer.answer.append(dns.rrset.from_text(question.name, self.ttl_s, "IN", kind, *values))
        elif not any(known == name and values for (known, _), values in self.records.items()):
            answer.set_rcode(dns.rcode.NXDOMAIN)
        return answer
