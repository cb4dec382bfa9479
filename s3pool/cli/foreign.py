"""The words of other tools (mc, aws, s5cmd, rclone, s3cmd): what is the same runs, for the rest there is an answer.

Read only where a command line is not understood.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from s3pool.errors import UsageError

# What runs as it stands: a command, or a flag of one ("" of any), and ours. An empty one does by itself what is asked.
SAME: dict[str, dict[str, str]] = {
    "commands": {"share download": "presign"},
    "": {"--no-color": "--color never", "--debug": "--verbose", "--fake": "--dry-run", "--rewind": "--at"},
    "mb": {"--with-lock": "--lock", "-l": "--lock", "--with-versioning": "--versioning"},
    "rb": {"--dangerous": ""},
    "rm": {"--dangerous": "", "-I": "--incomplete", "--bypass": "--bypass-governance", "--vid": "--version-id"},
    "ls": {"-I": "--incomplete"},
    "cp": {"-a": "--preserve", "--vid": "--version-id"},
    "mv": {"-a": "--preserve"},
    "mirror": {"-a": "--preserve", "--max-workers": "--workers", "--skip-errors": ""},
    "du": {"-r": "", "--recursive": ""},
    "cat": {"--vid": "--version-id"},
    "stat": {"--vid": "--version-id"},
    "presign": {"--expire": "--expires", "-E": "--expires"},
    "retention": {"--bypass": "--bypass-governance", "--vid": "--version-id"},
    "ilm": {
        "--expiry-days": "--expire-days",
        "--noncurrentversion-expiration-days": "--noncurrent-expire-days",
        "--storage-class": "--transition-tier",
    },
}
# What is written otherwise.
COMMANDS = {
    name: answer
    for names, answer in (
        ("get download", "cp s3/BUCKET/KEY FILE"),
        ("put upload", "cp FILE s3/BUCKET/KEY"),
        ("copy", "cp -r SRC DST"),
        ("copyto", "cp SRC DST"),
        ("move moveto rename", "mv SRC DST"),
        ("del delete remove", "rm s3/BUCKET/KEY"),
        ("purge", "rm -r s3/BUCKET/PREFIX"),
        ("list lsd lsf dir", "ls s3/BUCKET"),
        ("la", "ls -r s3/BUCKET"),
        ("lsl", "ls -l s3/BUCKET"),
        ("lsjson", "ls --json s3/BUCKET"),
        ("size", "du s3/BUCKET"),
        ("info", "stat s3/BUCKET/KEY"),
        ("mkdir make-bucket", "mb s3/BUCKET"),
        ("rmdir remove-bucket", "rb s3/BUCKET"),
        ("rcat", "pipe s3/BUCKET/KEY"),
        ("signurl share", "presign s3/BUCKET/KEY"),
        ("ready", "ping, whose exit code is 0 when every node answers"),
        ("admin", "ping; what a vendor's own interface does stays with the vendor's tool"),
        ("alias", "config, which shows profiles: each takes the place of an alias"),
        ("configure", "config, which shows every setting and where it comes from"),
        ("setpolicy", "policy set s3/BUCKET FILE"),
        ("setcors", "cors set s3/BUCKET FILE"),
        ("setlifecycle", "ilm import s3/BUCKET FILE"),
        ("tagging", "tag set s3/BUCKET/KEY K=V"),
        ("s3", "ls, cp, sync, ... without s3 before it"),
        ("s3api", "stat, tag, policy, ... : s3pool --help lists them"),
    )
    for name in names.split()
}
FLAGS = {
    name: answer
    for names, answer in (
        ("--dryrun", "--dry-run"),
        ("--endpoint-url --endpoint --s3-endpoint --host", "--endpoints URL,..."),
        ("--no-verify-ssl --no-check-certificate --no-check-ssl", "--insecure"),
        ("--no-progress", "--progress none"),
        ("--show-progress", "--progress bar"),
        ("--only-show-errors", "--quiet"),
        ("--human-readable --humanize", "-H"),
        ("--numworkers --transfers", "--workers N"),
        ("--concurrency", "--part-workers N"),
        ("--retry-count", "--retries N"),
        ("--delete-removed --delete-after", "--delete"),
        ("--follow-symlinks --copy-links", "--links follow"),
        ("--no-follow-symlinks", "--links skip"),
        ("--sse-kms-key-id", "--sse aws:kms:KEYID"),
        ("--sse-c-key --enc-c", "--sse-c KEYFILE"),
        ("--sse-c-copy-source --sse-c-copy-source-key", "--sse-c-source KEYFILE"),
        ("--add-header --custom-header", "--header 'NAME: VALUE'"),
        ("--grants", "--acl ACL"),
        ("--acl-public", "--acl public-read"),
        ("--acl-private", "--acl private"),
        ("--mime-type", "--content-type TYPE"),
        ("--attr", "--metadata K=V"),
        ("--if-size-differs", "--size-only"),
        ("--if-source-newer", "--update"),
        ("--ignore-existing --skip-existing --no-overwrite", "--no-clobber"),
        ("--max-age", "--newer-than AGE"),
        ("--min-age", "--older-than AGE"),
        ("--min-size", "--larger SIZE"),
        ("--max-size", "--smaller SIZE"),
        ("--all-versions", "--versions"),
        ("--raw", "--no-glob"),
        ("--output", "--json"),
        ("--limit-rate", "--bwlimit RATE"),
        ("--limit-upload --limit-download", "--bwlimit UP:DOWN"),
        ("--multipart-chunk-size-mb", "--part-size SIZE"),
    )
    for name in names.split()
}
UNKNOWN_FLAG = re.compile("unrecognized arguments: (?:[^-]\\S* )*(--?[^\\s=;]+)")


def ours(command: str, words: Sequence[str]) -> tuple[str, list[str]]:
    """Return a command and its words with those of mc replaced that mean the same."""
    rest = list(words)
    if rest and (same := SAME["commands"].get(f"{command} {rest[0]}")):
        command, *first = same.split()
        rest[:1] = first
    flags = SAME[""] | SAME.get(command, {})
    end = rest.index("--") if "--" in rest else len(rest)
    replaced: list[str] = []
    for word in rest[:end]:
        name, equals, value = word.partition("=")
        if name not in flags:
            replaced.append(word)
        elif flag := flags[name]:
            replaced += [f"{flag}={value}"] if equals else flag.split()
    return command, [*replaced, *rest[end:]]


def explained(error: UsageError, command: str, options: Collection[str]) -> UsageError:
    """Return an error that names our word for another tool's, or the one that is near."""
    if command in COMMANDS:
        return UsageError(f"{command} is no command of s3pool; write s3pool {COMMANDS[command]}")
    if command == "version" and "required" in error.message:
        return UsageError("version is of buckets: s3pool version show s3/BUCKET; that of the program: s3pool --version")
    found = UNKNOWN_FLAG.match(error.message)
    if found is None:
        return error
    flag, where = found[1], f"see s3pool {command} --help" if options else "see s3pool --help"
    ours = FLAGS.get(flag, "")
    if ours.split(" ")[0] in options or (ours and not options):
        return UsageError(f"{flag} is no flag of s3pool; write {ours}; {where}")
    from difflib import get_close_matches

    near = get_close_matches(flag, options, n=1, cutoff=0.75)
    return UsageError(f"{error.message.split(';')[0]}; did you mean {near[0]}? {where}") if near else error
