"""Lifecycle rules in flags (mc's words) and in one line each."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import Any

from s3pool.cli.parser import positive_int, size_in_bytes
from s3pool.errors import UsageError
from s3pool.s3.xml import iso_millis

Rule = dict[str, Any]

ID_BYTES = 8
EXPIRE, EXPIRE_OLD = "Expiration", "NoncurrentVersionExpiration"
MOVE, MOVE_OLD, ABORT = "Transitions", "NoncurrentVersionTransitions", "AbortIncompleteMultipartUpload"
# Flags of `ilm add`: where in a rule each stands, what it takes, and its help.
FLAGS = (
    ("--expire-days", (EXPIRE, "Days"), "DAYS", "delete objects so many days old"),
    ("--expire-delete-marker", (EXPIRE, "ExpiredObjectDeleteMarker"), "", "delete markers without versions, too"),
    ("--noncurrent-expire-days", (EXPIRE_OLD, "NoncurrentDays"), "DAYS", "delete old versions then"),
    ("--noncurrent-expire-newer", (EXPIRE_OLD, "NewerNoncurrentVersions"), "N", "but keep the N newest of them"),
    ("--transition-days", (MOVE, "Days"), "DAYS", "move objects to --transition-tier after so many days"),
    ("--transition-tier", (MOVE, "StorageClass"), "CLASS", "a storage class"),
    ("--noncurrent-transition-days", (MOVE_OLD, "NoncurrentDays"), "DAYS", "the same for old versions"),
    ("--noncurrent-transition-tier", (MOVE_OLD, "StorageClass"), "CLASS", "a storage class"),
    ("--abort-days", (ABORT, "DaysAfterInitiation"), "DAYS", "abort unfinished uploads then"),
    ("--prefix", ("Filter", "Prefix"), "PREFIX", "only keys with this prefix"),
    ("--tags", ("Filter", "Tags"), "K=V&...", "only objects with these tags"),
    ("--size-gt", ("Filter", "ObjectSizeGreaterThan"), "SIZE", "only larger objects"),
    ("--size-lt", ("Filter", "ObjectSizeLessThan"), "SIZE", "only smaller objects"),
)
TYPES: dict[str, Callable[[str], Any]] = {"DAYS": positive_int, "N": positive_int, "SIZE": size_in_bytes}
PLURALS = (MOVE, MOVE_OLD)
ACTIONS = frozenset(place[0] for _, place, _, _ in FLAGS if place[0] != "Filter")


def add_rule_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `ilm add` and `ilm rm`."""
    rule = parser.add_argument_group("the rule that add adds")
    for flag, _, metavar, meaning in FLAGS:
        if metavar:
            rule.add_argument(flag, type=TYPES.get(metavar, str), metavar=metavar, help=meaning)
        else:
            rule.add_argument(flag, action="store_true", default=None, help=meaning)
    rule.add_argument("--disable", action="store_true", help="add it, but not in force")
    parser.add_argument("--id", default="", metavar="ID", help="of the rule that add adds or rm removes")
    parser.add_argument("--all", action="store_true", help="rm: every rule; needs --force")
    parser.add_argument("-f", "--force", action="store_true", help="rm --all: do it")


def rule_of(args: argparse.Namespace) -> Rule:
    """Return the rule that the flags describe.

    Raises:
        UsageError: it would do nothing, or a transition is not whole.
    """
    rule: Rule = {"ID": args.id or os.urandom(ID_BYTES).hex(), "Status": "Disabled" if args.disable else "Enabled"}
    parts: dict[str, dict[str, Any]] = {"Filter": {}}
    for flag, (part, name), _, _ in FLAGS:
        value = getattr(args, flag[2:].replace("-", "_"))
        if value is not None:
            parts.setdefault(part, {})[name] = value
    if not ACTIONS & parts.keys():
        raise UsageError("ilm add needs what to do, such as --expire-days 30; see s3pool ilm --help")
    for part in PLURALS:
        if part in parts and len(parts[part]) < 2:
            raise UsageError("a transition needs its days and its tier: --transition-days 30 --transition-tier CLASS")
    rule["Filter"] = _filter(parts.pop("Filter"))
    return rule | {part: [value] if part in PLURALS else value for part, value in parts.items()}


def _filter(tests: dict[str, Any]) -> dict[str, Any]:
    """Return a filter as S3 has it: one test alone, more of them within ``And``."""
    tags = [dict(zip(("Key", "Value"), pair.split("=", 1), strict=False)) for pair in tests.pop("Tags", "").split("&")]
    tags = [tag for tag in tags if tag["Key"]]
    if any("Value" not in tag for tag in tags):
        raise UsageError("--tags wants K=V&K=V")
    if len(tags) + len(tests) > 1:
        return {"And": {**tests, **({"Tags": tags} if tags else {})}}
    return {"Tag": tags[0]} if tags else tests or {"Prefix": ""}


def rule_text(rule: Rule) -> str:
    """Return a rule in one line."""
    return "  ".join((str(rule.get("ID", "-")), *rule_words(rule)))


def rule_words(rule: Rule) -> list[str]:
    """Return what a rule says, but for its name, in words that are the same for the same rule."""
    words = [str(rule.get("Status", "")), *_flat(rule.get("Filter") or {})]
    if rule.get("Prefix"):  # as it was before filters
        words.append(f"Prefix={rule['Prefix']}")
    for name, value in rule.items():
        if name in ACTIONS:
            words += [
                f"{name}({', '.join(sorted(_flat(each)))})" for each in (value if isinstance(value, list) else [value])
            ]
    return words


def _flat(value: dict[str, Any]) -> list[str]:
    texts = []
    for name, item in value.items():
        if name == "And":
            texts += _flat(item)
        elif name in ("Tag", "Tags"):
            texts += [f"Tag={tag['Key']}={tag['Value']}" for tag in (item if isinstance(item, list) else [item])]
        elif item != "":
            texts.append(f"{name}={iso_millis(item) if name == 'Date' else item}")
    return texts
