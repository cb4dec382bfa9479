"""What every JSON record holds: the source of s3pool-json(5), and what real output is held against."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from s3pool.cli.parser import ALL, SETTINGS

TEXT, NUMBER, MAYBE, BORDER = "text", "number", "number or null", "text or null"
TRUTH, OBJECT, LIST, ANY = "true or false", "object", "list", "any value"
COPYING, DELETING = ("cp", "mv", "sync", "mirror", "run"), ("rm", "undo", "mv", "sync", "mirror", "find", "run")
ENTRY = "url bucket key size last_modified etag storage_class"
VERSION = "version_id is_latest is_delete_marker"
COUNTS = "version checked copied deleted skipped failed bytes seconds"


class Record(NamedTuple):
    """One kind of record: its types, who prints it (nobody named: every command), its members."""

    types: str
    of: tuple[str, ...]
    members: str
    optional: str = ""
    note: str = ""

    @property
    def required(self) -> set[str]:
        """Return the members that it always has."""
        return {"type", *self.members.split()}

    @property
    def may_have(self) -> set[str]:
        """Return all members that it can have."""
        return self.required | set(self.optional.split())

    def is_of(self, record: Mapping[str, Any], command: str) -> bool:
        """Return whether a command's record is of this kind, whatever its other members."""
        return record.get("type") in self.types.split() and command in (self.of or (command,))


RESULTS = (
    Record("bucket", ("ls",), "name created url bucket"),
    Record("object", ("ls", "find"), ENTRY, VERSION, "those of a version with --versions"),
    Record("prefix", ("ls", "find", "stat"), "url prefix bucket"),
    Record("upload", ("ls",), "url bucket key upload_id initiated storage_class"),
    Record("object", ("tree",), f"{ENTRY} depth"),
    Record("prefix", ("tree",), "url prefix bucket depth"),
    Record("bucket", ("stat",), "name url bucket versioning region headers", "settings"),
    Record(
        "object",
        ("stat",),
        f"{ENTRY} version_id",
        "content_type metadata headers is_latest is_delete_marker parts tags retention retain_until legal_hold restore"
        " checksum_crc32 checksum_crc32c checksum_crc64nvme checksum_sha1 checksum_sha256 checksum_type settings",
        "content_type, metadata and headers but for --versions; the others where the server tells them",
    ),
    Record("usage", ("du",), "url objects bytes"),
    Record("head", ("head",), "url bytes content"),
    Record("exec", ("find",), "url argv", "dry_run", "--exec with --dry-run"),
    Record("same different only_first only_second unknown", ("diff", "check"), "name first second by"),
    Record("different", ("check",), "url nodes odd", "", "--nodes"),
    Record("copy", ("cp", "sync", "mirror", "pipe", "run"), "source target size seconds", "dry_run"),
    Record("move", ("mv", "run"), "source target size seconds", "dry_run"),
    Record("delete", DELETING, "url", "version_id upload_id dry_run"),
    Record("bucket_created", ("mb",), "url bucket", "dry_run"),
    Record("bucket_deleted", ("rb",), "url bucket", "dry_run"),
    Record(" ".join(SETTINGS), SETTINGS, "action url value", "version_id dry_run", "the type is the command's name"),
    Record("endpoint", ("ping",), "url healthy latency_ms connect_ms status tls clock_offset_s server keys error"),
    Record(
        "speedtest",
        ("speedtest",),
        "phase endpoint bytes objects seconds requests objects_per_s",
        "alone throughput requests_per_s mean_ms p50_ms p90_ms p99_ms max_ms errors error way jobs factor complete",
        "way, jobs, factor and complete with --list, the others without",
    ),
    Record("speedtest_finding", ("speedtest",), "kind phase endpoint factor message"),
    Record(
        "speedtest_plan",
        ("speedtest",),
        "url duration",
        "phases size concurrency endpoints keep jobs dry_run",
        "--dry-run; jobs with --list, the others without",
    ),
    Record("presigned", ("presign",), "url expires"),
    Record("config", ("config",), "option value origin"),
    Record("profile", ("config",), "name state tool endpoints file", "", "config import"),
    Record("shard", ("shards",), "shard of after until"),
)
SUMMARIES = (
    Record("summary", ("ls",), "version objects prefixes bytes", "delete_markers", "--summarize"),
    Record("summary", ("cp", "mv", "rm", "find", "run"), COUNTS, "not_kept dry_run"),
    Record("summary", ("undo",), f"{COUNTS} changed unchanged", "dry_run"),
    Record(
        "summary",
        ("sync", "mirror"),
        f"{COUNTS} retries unchanged looked_at not_finished held_back",
        "not_kept dry_run",
    ),
    Record("summary", ("diff", "check"), "version same different only_first only_second unknown failed"),
    Record("summary", ("check",), "version keys nodes different blamed", "", "--nodes"),
    Record("summary", ("run",), "version lines failed not_run bytes seconds", "dry_run"),
)
MESSAGES = (
    Record("error", (), "op source target code message endpoint status", "line command", "line and command in run"),
    Record("warning", (), "op message"),
    Record("note", (), "op message", "source target at url admin line code"),
    Record("log", (), "time level logger message", "traceback", "-v"),
    Record(
        "stats",
        (),
        "endpoint requests failures throttled retries hedges ejections bytes_sent bytes_received mean_ms state"
        " failure_kinds last_error",
        "",
        "--stats",
    ),
    Record("list_stats", (), "names requests extra_requests", "", "--stats"),
)
RECORDS = (*RESULTS, *SUMMARIES, *MESSAGES)

# Each member once: what its value is, and what it means.
MEMBERS: dict[str, tuple[str, str]] = {
    "action": (TEXT, "what was asked for, such as ls, set or rm"),
    "admin": (TEXT, "the proxy's own page"),
    "alone": (TRUTH, "whether the node was measured by itself"),
    "argv": (LIST, "the words that would be run"),
    "at": (TEXT, "the moment that undo goes back to"),
    "blamed": (OBJECT, "for each node that stands apart, on how many keys"),
    "bucket": (TEXT, "the bucket's name; in all records of buckets, prefixes and objects"),
    "by": (TEXT, "how it was told, such as size or MD5"),
    "bytes": (NUMBER, "size of all that was counted, moved or shown"),
    "bytes_received": (NUMBER, "from this endpoint"),
    "bytes_sent": (NUMBER, "to this endpoint"),
    "changed": (NUMBER, "keys that were brought back"),
    "checked": (NUMBER, "what was looked at"),
    "checksum_crc32": (TEXT, "as the server stores it; likewise the five below"),
    "checksum_crc32c": (TEXT, ""),
    "checksum_crc64nvme": (TEXT, ""),
    "checksum_sha1": (TEXT, ""),
    "checksum_sha256": (TEXT, ""),
    "checksum_type": (TEXT, "FULL_OBJECT, or COMPOSITE of the parts"),
    "clock_offset_s": (MAYBE, "the endpoint's clock minus this one"),
    "code": (ANY, "of an error: S3's code, or the kind of failure, as text; of a line of run: its exit code"),
    "command": (TEXT, "the line of the script"),
    "complete": (TRUTH, "whether the listing came to its end in time"),
    "concurrency": (NUMBER, "requests at a time"),
    "connect_ms": (MAYBE, "time for a new connection"),
    "content": (TEXT, "the lines or bytes themselves"),
    "content_type": (TEXT, "of the object"),
    "copied": (NUMBER, "objects and files copied or moved"),
    "created": (TEXT, "when the bucket was made"),
    "delete_markers": (NUMBER, "with --versions"),
    "deleted": (NUMBER, "objects and files deleted"),
    "depth": (NUMBER, "levels below the operand, from 1"),
    "different": (NUMBER, "what differs"),
    "dry_run": (TRUTH, "true where nothing was done"),
    "duration": (NUMBER, "seconds for each phase"),
    "endpoint": (TEXT, "the node's URL; all: of them together"),
    "endpoints": (ANY, "of a profile: as text; of a plan: a list of those measured alone"),
    "ejections": (NUMBER, "how often the node left the pool"),
    "error": (TEXT, "what went wrong last"),
    "errors": (NUMBER, "requests that failed"),
    "etag": (TEXT, "without quotes"),
    "expires": (TEXT, "when the URL ends to work"),
    "extra_requests": (NUMBER, "more than full pages would need"),
    "factor": (MAYBE, "against the other nodes, or the slowest way"),
    "failed": (NUMBER, "what failed"),
    "failure_kinds": (OBJECT, "how often each kind of failure"),
    "failures": (NUMBER, "attempts that failed"),
    "file": (TEXT, "the file it is written to"),
    "first": (TEXT, "path on the first side"),
    "headers": (OBJECT, "of the answer, by lower-case names"),
    "healthy": (TRUTH, "whether it answers"),
    "held_back": (TEXT, "why nothing was deleted, where something would have been"),
    "hedges": (NUMBER, "attempts that were made beside a silent one"),
    "initiated": (TEXT, "when the upload began"),
    "is_delete_marker": (TRUTH, "whether the version says that the key is deleted"),
    "is_latest": (TRUTH, "whether the version is the one that a GET finds"),
    "jobs": (ANY, "ranges at a time, as a number; of a plan: a list of them"),
    "keep": (TRUTH, "whether what was stored stays"),
    "key": (TEXT, "exactly as it is"),
    "keys": (ANY, "of a node: what came of a signed request, as text; of a summary: how many, as a number"),
    "kind": (TEXT, "slow or failing"),
    "last_error": (TEXT, "of this endpoint"),
    "last_modified": (TEXT, "time of the object"),
    "latency_ms": (MAYBE, "from the request to the end of the answer"),
    "legal_hold": (TEXT, "ON or OFF"),
    "level": (TEXT, "debug, info, warning or error"),
    "line": (NUMBER, "of the script, from 1"),
    "lines": (NUMBER, "that were run"),
    "logger": (TEXT, "the module"),
    "looked_at": (NUMBER, "pairs whose content or stored time was asked for"),
    "max_ms": (NUMBER, "the slowest request"),
    "mean_ms": (NUMBER, "mean time of a request"),
    "message": (TEXT, "one line for people"),
    "metadata": (OBJECT, "the user's, by names without x-amz-meta-"),
    "name": (TEXT, "of a bucket (as bucket, an older name), a profile, or what is compared below both sides"),
    "names": (NUMBER, "that all listings returned"),
    "nodes": (ANY, "of a summary: how many; of a key: size and etag at each node, null where it is missing"),
    "not_finished": (NUMBER, "what the run did not come to"),
    "not_kept": (OBJECT, "with --preserve: how often each thing that no object can hold"),
    "not_run": (NUMBER, "lines that were not run"),
    "objects": (NUMBER, "how many"),
    "objects_per_s": (NUMBER, "objects in a second"),
    "odd": (LIST, "the nodes that stand apart"),
    "of": (NUMBER, "shards in all"),
    "after": (BORDER, "the range begins behind this name; null: at the first"),
    "op": (TEXT, "the command, or what was done"),
    "option": (TEXT, "name of the setting"),
    "only_first": (NUMBER, "what the second side lacks"),
    "only_second": (NUMBER, "what the first side lacks"),
    "origin": (TEXT, "where the value comes from"),
    "p50_ms": (NUMBER, "half of the requests took no longer"),
    "p90_ms": (NUMBER, "nine of ten"),
    "p99_ms": (NUMBER, "99 of 100"),
    "parts": (NUMBER, "that the object was stored in"),
    "phase": (TEXT, "upload, download, list or delete"),
    "phases": (LIST, "in their order"),
    "prefix": (TEXT, "that keys share; it ends in /"),
    "prefixes": (NUMBER, "how many"),
    "region": (TEXT, "of the bucket"),
    "requests": (NUMBER, "how many were made"),
    "requests_per_s": (NUMBER, "requests in a second"),
    "restore": (TEXT, "state of an archived object's copy"),
    "retain_until": (TEXT, "when the retention ends"),
    "retention": (TEXT, "GOVERNANCE or COMPLIANCE"),
    "retries": (NUMBER, "attempts that were repeated"),
    "same": (NUMBER, "what is the same"),
    "second": (TEXT, "path on the second side"),
    "seconds": (NUMBER, "time that it took"),
    "server": (TEXT, "what the node calls itself"),
    "settings": (OBJECT, "with --all: value of each setting"),
    "shard": (NUMBER, "from 0"),
    "size": (NUMBER, "bytes"),
    "skipped": (NUMBER, "left out on purpose, and refused"),
    "source": (TEXT, "path, or - for standard input"),
    "state": (TEXT, "of a node's circuit; of a profile: imported, replaced, unchanged or kept"),
    "status": (MAYBE, "HTTP's, where a server answered"),
    "storage_class": (TEXT, "as listed"),
    "tags": (NUMBER, "how many the object has"),
    "target": (TEXT, "path"),
    "throttled": (NUMBER, "answers that asked for fewer requests"),
    "throughput": (NUMBER, "bytes in a second"),
    "time": (TEXT, "when it was logged"),
    "tls": (TEXT, "version"),
    "tool": (TEXT, "whose configuration it was"),
    "traceback": (TEXT, "of an error in s3pool itself"),
    "type": (TEXT, "what record it is; in every record, first"),
    "unchanged": (NUMBER, "what needed no change"),
    "unknown": (NUMBER, "what could not be told"),
    "until": (BORDER, "the range ends with this name; null: with the last"),
    "upload_id": (TEXT, "of an upload in parts"),
    "url": (TEXT, "the path as s3/BUCKET/KEY; of endpoint, presigned and the proxy's note: a URL"),
    "value": (ANY, "of the setting, by S3's own names"),
    "version": (NUMBER, "of these records: 1; it rises when a member goes or changes its meaning"),
    "version_id": (TEXT, "of the object's version"),
    "versioning": (TEXT, "Enabled, Suspended, Off or unknown"),
    "way": (TEXT, "how the prefix was listed"),
}
KINDS: Mapping[str, tuple[type, ...]] = {
    TEXT: (str,),
    NUMBER: (int, float),
    MAYBE: (int, float, type(None)),
    BORDER: (str, type(None)),
    TRUTH: (bool,),
    OBJECT: (dict,),
    LIST: (list,),
}


def faults_of(record: Mapping[str, Any], command: str) -> list[str]:
    """Return what a record has otherwise than the page says."""
    name, known = record.get("type", ""), [kind for kind in RECORDS if kind.is_of(record, command)]
    if not any(kind.required <= set(record) <= kind.may_have for kind in known):
        return [f"{command}: no {name} has exactly {' '.join(record)}"]
    found = []
    for member, value in record.items():
        kind = MEMBERS[member][0]
        is_bool = isinstance(value, bool)
        if kind != ANY and (not isinstance(value, KINDS[kind]) or is_bool is not (kind == TRUTH)):
            found.append(f"{command}: {name}.{member} is {value!r}, and no {kind}")
    return found


def roff() -> Iterator[str]:
    """Yield the sections of the page that come from the tables."""
    for title, records in (("RECORDS", RESULTS), ("SUMMARIES", SUMMARIES), ("MESSAGES", MESSAGES)):
        yield f".SH {title}\n.nh\n.ad l"
        for record in records:
            of = ", ".join(record.of) or "every command"
            yield f'.TP\n.BR "{", ".join(record.types.split())}" " ({_escaped(of)})"'
            more = f"; {', '.join(record.optional.split())}" if record.optional else ""
            note = f" ({record.note})" if record.note else ""
            yield _escaped(", ".join(record.members.split()) + more + note)
    yield ".SH MEMBERS"
    for name, (kind, meaning) in sorted(MEMBERS.items()):
        yield f'.TP\n.BR {name} " ({kind})"\n{_escaped(meaning) or "likewise"}'


def _escaped(text: str) -> str:
    return text.replace("-", "\\-")


assert set().union(*(record.may_have for record in RECORDS)) == set(MEMBERS)
assert {name for record in RECORDS for name in record.of} <= set(ALL)
