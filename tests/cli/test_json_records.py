"""JSON records of every command have the members that s3pool-json(5) tells, of the kinds that it tells."""

from __future__ import annotations

import json
import shlex
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from s3pool.cli.parser import ALL, SETTINGS
from tests.cli.conftest import Call
from tests.support.fake_s3 import Answer, FakeS3
from tests.support.fake_s3.store import Upload
from tests.support.json_records import RECORDS, Record, faults_of

TEXT_ONLY = {"cat", "print", "completion", "proxy"}  # the proxy's note is judged in tests/proxy
LINES = "cp d/a s3/b/run/a\nmv d/moved s3/b/run/m\nrm s3/b/run/a\nstat s3/b/missing\ncp nowhere s3/b/x\n"
# Run in this order: what one leaves is what the next one finds. A second element is standard input.
COMMANDS: tuple[tuple[str, str], ...] = (
    ("ls", ""),
    ("ls --summarize s3/b", ""),
    ("ls -r --versions --summarize s3/versioned", ""),
    ("ls --incomplete s3/b", ""),
    ("tree -f s3/b", ""),
    ("find s3/b", ""),
    ("find s3/b --type d", ""),
    ("find s3/versioned --versions", ""),
    ("find s3/b --exec 'echo {}' --dry-run", ""),
    ("stat s3/b s3/b/p/ s3/b/p/a", ""),
    ("stat --versions s3/versioned/k", ""),
    ("tag ls s3/versioned/k --version-id v-000001", ""),
    ("stat s3/nowhere", ""),
    ("du -d 1 s3/b", ""),
    ("head s3/b/p/a", ""),
    ("diff d s3/b/p", ""),
    ("check d s3/b/p", ""),
    ("check --nodes s3/b", ""),
    ("cp -r --stats d s3/b/p", ""),
    ("cp -r --preserve d s3/b/p --dry-run", ""),
    ("cp d/a s3/b/none/ --no-such-flag", ""),
    ("cp d/a s3/nowhere/x", ""),
    ("mv d/b s3/b/m/b", ""),
    ("mv d/a s3/b/m/x --dry-run", ""),
    ("sync d s3/b/sync", ""),
    ("mirror d s3/b/mirror", ""),
    ("pipe s3/b/piped", "x"),
    ("run -", LINES),
    ("rm -r --force s3/b/m/", ""),
    ("cp --ignore-archived s3/b/archived d/archived", ""),
    ("rm --incomplete -r --force s3/b/p/", ""),
    ("stat --all s3/b s3/b/told", ""),
    ("rm s3/versioned/k --versions --dry-run", ""),
    ("undo s3/versioned --at 1970-01-01T00:01:30Z --force", ""),
    ("mb s3/new", ""),
    ("mb s3/newer --dry-run", ""),
    ("rb s3/new", ""),
    ("tag set s3/b/p/a x=y", ""),
    ("tag ls s3/b/p/a", ""),
    ("ping", ""),
    ("speedtest s3/b --dry-run", ""),
    ("speedtest s3/b --list --dry-run", ""),
    ("speedtest s3/b/x/ --duration 0.2 --size 1K", ""),
    ("speedtest s3/b --list --duration 1", ""),
    ("presign s3/b/p/a", ""),
    ("config --config loose.yaml", ""),
    ("config import mc", ""),
    ("shards s3/b --into 2", ""),
    ("-v ls --stats s3/b", ""),
    ("sync d s3/b/sync --dry-run --preserve", ""),
    ("run - --dry-run", "cp d/a s3/b/run/a"),
    ("undo s3/versioned --at 1970-01-01T00:02:30Z --force --dry-run", ""),
    ("rb s3/odd --force --dry-run", ""),
    ("tag rm s3/b/p/a --dry-run", ""),
)


BY_ONE_NODE = ("check --nodes s3/odd", "speedtest s3/b/x/ --duration 0.2 --size 1K")  # which lacks buckets, and dies
# What needs a running proxy, or a fault in s3pool itself.
ELSEWHERE = {("note", "url"), ("note", "admin"), ("log", "traceback")}
TOLD = {
    "x-amz-object-lock-mode": "GOVERNANCE",
    "x-amz-object-lock-retain-until-date": "2030-01-01T00:00:00Z",
    "x-amz-object-lock-legal-hold": "ON",
    "x-amz-restore": 'ongoing-request="true"',
    **{f"x-amz-checksum-{name}": "AAAAAA==" for name in ("crc32", "crc32c", "crc64nvme", "sha1", "sha256")},
}


@pytest.fixture
def filled(fake: FakeS3, tmp_path: Path) -> FakeS3:
    """Give buckets with and without versions, an upload in parts, a node that fails, and a local tree."""
    for name in ("a", "b", "moved", "only-here"):
        (tmp_path / "d" / "empty").mkdir(parents=True, exist_ok=True)
        (tmp_path / "d" / name).write_bytes(name.encode())
    (tmp_path / "d" / "link").symlink_to("nowhere")
    for key in ("p/a", "p/b", "p/only-there", "p/deep/er"):
        fake.store.add("b", key, key.encode())
    told = fake.store.add("b", "told", b"told")
    told.headers.update(TOLD)
    told.tags, told.etag = {"x": "y"}, f"{'0' * 32}-2"
    fake.store.add("b", "archived", b"1")
    fake.store.bucket("b").uploads["u"] = Upload("u", "p/unfinished", 0.0, {}, {}, "STANDARD")
    fake.fault(Answer(403, "InvalidObjectState"), op="GetObject", key="archived", times=0)
    fake.store.add("versioned", "k", b"0")
    fake.store.bucket("versioned").versioning = "Enabled"
    for minute, marker in ((1, False), (2, False), (3, True)):
        fake.store.add("versioned", "k", b"1", mtime=minute * 60.0).marker = marker
    fake.store.add("odd", "k", b"1")
    alias = {"url": fake.endpoints[0], "accessKey": "key", "secretKey": "secret", "api": "s3v4", "path": "auto"}
    (tmp_path / ".mc").mkdir(mode=0o700)
    (tmp_path / ".mc" / "config.json").write_text(json.dumps({"version": "10", "aliases": {"old": alias}}))
    (tmp_path / "loose.yaml").write_text("secret_key: x\n")
    return fake


def _records(call: Call, words: str, stdin: str) -> Iterator[dict[str, Any]]:
    result = call("--json", *shlex.split(words), stdin=stdin.encode())
    for line in f"{result.out}{result.err}".splitlines():
        if line:
            assert line.startswith("{"), f"{words}: {line}"
            yield json.loads(line)


def test_records_are_as_the_manual_says(filled: FakeS3, call: Call) -> None:
    """Programs read them: nothing comes that the page lacks, and nothing stands there that never comes."""
    faults: list[str] = []
    seen: dict[Record, set[str]] = defaultdict(set)

    def judge(words: str, stdin: str = "") -> None:
        command = next(word for word in words.split() if word in ALL)
        for record in _records(call, words, stdin):
            faults.extend(faults_of(record, command))
            for kind in RECORDS:
                if kind.is_of(record, command) and set(record) <= kind.may_have:
                    seen[kind] |= set(record)

    for words, stdin in COMMANDS:
        judge(words, stdin)
    filled.fault(Answer(404, "NoSuchBucket"), op="ListObjectsV2", endpoint=1, times=0)
    judge(BY_ONE_NODE[0])
    filled.nodes[1].kill()
    judge(BY_ONE_NODE[1])

    assert "" == "\n".join(faults)
    missing = {(kind.types, kind.of, name) for kind in RECORDS for name in kind.may_have - seen[kind]}
    assert [] == sorted(entry for entry in missing if (entry[0], entry[2]) not in ELSEWHERE)
    assert set(ALL) == {word for words, _ in COMMANDS for word in words.split()} & set(ALL) | TEXT_ONLY | set(SETTINGS)
