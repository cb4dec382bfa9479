"""Commands that are rows of a table: which setting they show and change, by which verbs, on which places.

Below them: mc's words for bucket policies, and lifecycle rules as flags say them.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from s3pool.cli.context import Context
from s3pool.cli.output import combined, exit_code_for
from s3pool.cli.parser import positive_int, size_in_bytes, switch, text_flag
from s3pool.errors import LocalFileError, ProtocolError, S3Error, S3PoolError, UsageError, describe_os_error
from s3pool.location import S3Path
from s3pool.s3.documents import iso_millis
from s3pool.s3.settings import Place, S3Setting, SettingOperations, read_document
from s3pool.transfer.flow import Flow

BUCKETS, OBJECTS, BOTH = "s3/BUCKET", "s3/BUCKET/KEY", "s3/BUCKET or s3/BUCKET/KEY"
FILE = "[FILE]"
NONE = "none"


class Action(NamedTuple):
    """One verb: its names (ours first, then mc's), what it does, and the words before and after the path.

    ``act`` returns a value, which ``text`` shows to people; what changes something has ``done`` instead.
    """

    names: tuple[str, ...]
    act: Callable[[Run, Place], Any]
    text: Callable[[Any], str] | None = None
    done: str = ""
    before: tuple[str, ...] = ()
    after: str = ""

    def form(self, place: str) -> str:
        """Return how it is written."""
        return " ".join(filter(None, (self.names[0], *self.before, place, self.after)))


class SettingsCommand(NamedTuple):
    """One command, which is a module as far as the parser knows; a key has the setting ``of_objects``."""

    name: str
    places: str
    EXAMPLES: tuple[str, ...]
    actions: tuple[Action, ...]
    setting: S3Setting
    of_objects: S3Setting | None = None
    flags: tuple[Callable[[argparse.ArgumentParser], object], ...] = ()

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the verb, the words after it, and the flags."""
        forms = [
            f"  s3pool {self.name} {action.form('PATH' if action.after else 'PATH...')}" for action in self.actions
        ]
        parser.epilog = f"PATH is {self.places}:\n" + "\n".join(forms)
        if self.actions[0].names[0]:
            parser.add_argument("action", metavar="ACTION", help=", ".join(action.names[0] for action in self.actions))
        parser.add_argument("words", nargs="*", metavar="WORD", help="values and paths: see below")
        for add in self.flags:
            add(parser)

    def run(self, args: argparse.Namespace, ctx: Context) -> int:
        """Act on each path; a failure is printed, and the rest goes on."""
        words, name = list(args.words), getattr(args, "action", "")
        if name == "rule" and words:  # mc's `ilm rule add`
            name = words.pop(0)
        action = next((action for action in self.actions if name in action.names), None)
        if action is None:
            raise UsageError(f"{self.name} {name}: write {', '.join(each.names[0] for each in self.actions)}")
        if name and name in "|".join(action.before).split(
            "|"
        ):  # `anonymous download PATH`, where mc has a `set` before it
            words.insert(0, name)
        values, paths = words[: len(action.before)], words[len(action.before) :]
        if action.after:
            values, paths = [*values, *paths[1:]], paths[:1]
        if not paths or (action.after not in ("", FILE) and not values):
            raise UsageError(f"write s3pool {self.name} {action.form('PATH')}, where PATH is {self.places}")
        run = Run(self, action, args, ctx, values)
        return ctx.for_each([run.path(text) for text in paths], run.act)


class Run:
    """One command line at work; ``values`` are its words beside the paths."""

    def __init__(
        self, command: SettingsCommand, action: Action, args: argparse.Namespace, ctx: Context, values: list[str]
    ) -> None:
        self.command, self.action, self.args, self.ctx, self.values = command, action, args, ctx, values
        config = ctx.config
        self.client = SettingOperations(ctx.client.sender, addressing=config.addressing, region=config.region)
        self._is_recursive: bool = getattr(args, "recursive", False)

    def path(self, text: str) -> S3Path:
        """Read one path, and refuse one that has no such setting."""
        path = self.ctx.s3(text)
        name, places = self.command.name, self.command.places
        if not path.bucket:
            raise UsageError(f"{text} names no bucket; {name} takes {places}")
        if path.key and (places == BUCKETS or getattr(self.args, "default", False)):
            raise UsageError(f"{text} has a key; {name} takes {BUCKETS} here")
        if not path.key and places == OBJECTS and not self._is_recursive:
            raise UsageError(f"{text} is a bucket; {name} takes {OBJECTS}, and with -r all below it")
        if getattr(self.args, "version_id", "") and (self._is_recursive or not path.key):
            raise UsageError("--version-id is for one object")
        if getattr(self.args, "versions", False) and not self._is_recursive:
            raise UsageError("--versions goes with -r")
        return path

    def get(self, place: Place) -> Any:
        """Return the value, None where nothing is set."""
        return self.client.get(*self._meant(place))

    def put(self, place: Place, value: Any) -> None:
        """Replace the value; in a dry run nothing happens."""
        if not self.ctx.dry_run:
            bypass = getattr(self.args, "bypass_governance", False)
            self.client.put(*self._meant(place), value=value, bypass=bypass)

    def delete(self, place: Place) -> None:
        """Delete the value; in a dry run nothing happens."""
        if not self.ctx.dry_run:
            self.client.delete(*self._meant(place))

    def _meant(self, place: Place) -> tuple[S3Setting, Place]:
        """Return the setting and whose it is: what holds for a prefix is a setting of the bucket."""
        of_objects = self.command.of_objects
        return (of_objects, place) if of_objects and place.key else (self.command.setting, Place(place.bucket))

    def file(self) -> Any:
        """Return the document in the file that was named, or in standard input."""
        name = next(iter(self.values), "-")
        try:
            with self.ctx.stdin if name == "-" else open(name, "rb") as stream:
                text = stream.read()
            return read_document(self.command.setting, text)
        except OSError as exc:
            raise LocalFileError(f"cannot read {name}: {describe_os_error(exc)}") from exc
        except ProtocolError as exc:
            raise UsageError(f"{name}: {exc.message}; nothing was changed") from exc

    def act(self, path: S3Path) -> int:
        """Act on a path, or on all objects below it in several threads, and tell of each."""
        if not self._is_recursive:
            place = Place(path.bucket, path.key, getattr(self.args, "version_id", ""))
            try:
                self._tell(place, self.action.act(self, place))
            except S3Error as exc:
                exc.is_of_target = self.action.text is None
                raise
            return 0
        from s3pool.cli.transfers import executor_for

        self.ctx.session.start_health()
        executor = executor_for(self.ctx, inline=False)
        try:
            return combined(self._told(*result) for result in Flow(executor, self._attempt, self._below(path)))
        finally:
            executor.close()

    def _below(self, path: S3Path) -> Iterator[Place]:
        from s3pool.cli.selection import iter_selected_pages, select

        versions = self.args.versions
        for page in iter_selected_pages(self.ctx.client, select(path, glob=False), versions=versions):
            for info in page.objects:
                if not info.is_delete_marker:
                    yield Place(path.bucket, info.key, info.version_id if versions else "")

    def _attempt(self, place: Place) -> tuple[Place, Any]:
        try:
            return place, self.action.act(self, place)
        except S3PoolError as exc:
            return place, exc

    def _told(self, place: Place, value: Any) -> int:
        if isinstance(value, S3PoolError):
            self.ctx.out.error(value, source=S3Path(place.bucket, place.key).text)
            return exit_code_for(value)
        self._tell(place, value)
        return 0

    def _tell(self, place: Place, value: Any) -> None:
        out, where = self.ctx.out, S3Path(place.bucket, place.key).text
        fields = {"type": self.command.name, "action": self.action.names[0], "url": where, "value": value}
        if place.version_id:
            fields["version_id"] = place.version_id
        if self.action.text is None:
            out.act(f"{self.action.done}: {out.escape(where)}", fields)
        elif self.action.text is document and value is not None:
            out.result(document(value), fields)
        else:
            text = NONE if value is None else self.action.text(value)
            out.result("\n".join(f"{out.escape(where)}: {out.escape(line)}" for line in text.split("\n")), fields)


def document(value: Any) -> str:
    """Return a document as it can be given back."""
    return json.dumps(value, indent=2, ensure_ascii=False)


Statement = dict[str, Any]

POLICY_VERSION = "2012-10-17"
ARN = "arn:aws:s3:::"
EVERYBODY = {"AWS": ["*"]}
DOWNLOAD, UPLOAD, PUBLIC, CUSTOM = "download", "upload", "public", "custom"
READERS, WRITERS = (DOWNLOAD, PUBLIC), (UPLOAD, PUBLIC)
WORDS = {"private": NONE, NONE: NONE, DOWNLOAD: DOWNLOAD, UPLOAD: UPLOAD, PUBLIC: PUBLIC}
ACCESSES = tuple(dict.fromkeys(WORDS.values()))
# Rights to the bucket, to a listing of it, and to its objects. mc grants the same, and knows these again.
LOCATION = ("s3:GetBucketLocation",)
LIST = ("s3:ListBucket",)
UPLOADS = ("s3:ListBucketMultipartUploads",)
READ = ("s3:GetObject",)
WRITE = ("s3:AbortMultipartUpload", "s3:DeleteObject", "s3:ListMultipartUploadParts", "s3:PutObject")
RIGHTS = frozenset((*LOCATION, *LIST, *UPLOADS, *READ, *WRITE))


def with_access(policy: Any, path: S3Path, word: str) -> dict[str, Any] | None:
    """Return a policy that grants what ``word`` says below a path, and what else it granted; None for nothing."""
    kept = [statement for statement in statements_of(policy) if not _is_ours(statement, path)]
    granted = _statements(path, word)
    if not (kept or granted):
        return None
    return {**(policy or {"Version": POLICY_VERSION}), "Statement": [*kept, *granted]}


def access_of(policy: Any, path: S3Path) -> str:
    """Return the word for what everybody may do below a path; ``custom`` for what no word tells."""
    rights: set[str] = set()
    for statement in statements_of(policy):
        if not _touches(statement, path):
            continue
        actions = set(_texts(statement, "Action"))
        if not _covers(statement, path) or not actions <= RIGHTS:
            return CUSTOM
        rights |= actions
    may_read, may_write = not rights.isdisjoint(READ), not rights.isdisjoint(WRITE)
    return next(word for word in WORDS.values() if (may_read, may_write) == (word in READERS, word in WRITERS))


def statements_of(policy: Any) -> list[Statement]:
    """Return the statements of a policy; one may stand without a list."""
    found = (policy or {}).get("Statement", [])
    return [found] if isinstance(found, dict) else list(found)


def _statements(path: S3Path, word: str) -> list[Statement]:
    rights = (*(READ if word in READERS else ()), *(WRITE if word in WRITERS else ()))
    if not rights:
        return []
    bucket, condition = [f"{ARN}{path.bucket}"], {"Condition": {"StringEquals": {"s3:prefix": [path.key]}}}
    statements = [_allow(rights, [f"{ARN}{path.bucket}/{path.key}*"])]
    if word in READERS:
        statements.append({**_allow(LIST, bucket), **(condition if path.key else {})})
    if not path.key:
        statements.append(_allow((*LOCATION, *(UPLOADS if word in WRITERS else ())), bucket))
    return statements


def _allow(actions: tuple[str, ...], resources: list[str]) -> Statement:
    return {"Effect": "Allow", "Principal": EVERYBODY, "Action": list(actions), "Resource": resources}


def _is_ours(statement: Statement, path: S3Path) -> bool:
    """Return whether a statement is one that a word for this path grants: other ones are left alone."""
    if not _grants_everybody(statement) or not set(_texts(statement, "Action")) <= RIGHTS:
        return False
    resources = _texts(statement, "Resource")
    if resources == [f"{ARN}{path.bucket}/{path.key}*"]:
        return not statement.get("Condition")
    return resources == [f"{ARN}{path.bucket}"] and _prefix_of(statement) == path.key


def _prefix_of(statement: Statement) -> str | None:
    """Return the prefix that a statement is about: "" for all, None when it has other conditions."""
    condition = statement.get("Condition")
    if not condition:
        return ""
    prefixes = condition.get("StringEquals", {}).get("s3:prefix")
    if len(condition) > 1 or prefixes is None:
        return None
    return prefixes if isinstance(prefixes, str) else (prefixes[0] if len(prefixes) == 1 else None)


def _touches(statement: Statement, path: S3Path) -> bool:
    """Return whether a statement is about what everybody may do with objects below a path."""
    place = f"{ARN}{path.bucket}/{path.key}"
    starts = [text.rstrip("*") for text in _texts(statement, "Resource") if "/" in text or text.endswith("*")]
    meets = any(place.startswith(start) or start.startswith(place) for start in starts)
    return meets and (_grants_everybody(statement) or statement.get("Effect") == "Deny")


def _covers(statement: Statement, path: S3Path) -> bool:
    """Return whether a statement allows something for all objects below a path, without a condition."""
    place = f"{ARN}{path.bucket}/{path.key}"
    resources = [text for text in _texts(statement, "Resource") if text.endswith("*")]
    is_plain = _grants_everybody(statement) and not statement.get("Condition")
    return is_plain and any(place.startswith(text.rstrip("*")) for text in resources)


def _grants_everybody(statement: Statement) -> bool:
    principal = statement.get("Principal")
    everybody = principal.get("AWS") if isinstance(principal, dict) else principal
    return statement.get("Effect") == "Allow" and everybody in ("*", ["*"])


def _texts(statement: Statement, name: str) -> list[str]:
    value = statement.get(name, [])
    return [value] if isinstance(value, str) else list(value)


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
    switch(rule, "--disable", help="add it, but not in force")
    text_flag(parser, "--id", "ID", help="of the rule that add adds or rm removes")
    switch(parser, "--all", help="rm: every rule; needs --force")
    switch(parser, "-f", "--force", help="rm --all: do it")


def rule_of(args: argparse.Namespace) -> Rule:
    """Return the rule that the flags describe. Raises UsageError: it would do nothing, or a transition is not whole."""
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
