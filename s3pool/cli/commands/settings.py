"""tag, version, retention, legalhold, policy, anonymous, ilm, cors, encrypt, restore: the table of their verbs."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator
from typing import Any

from s3pool.cli import setting_commands as settings
from s3pool.cli.context import Context
from s3pool.cli.parser import positive_int, switch, text_flag
from s3pool.cli.setting_commands import BOTH, BUCKETS, FILE, NONE, OBJECTS, Action, Run, SettingsCommand, document
from s3pool.errors import S3Error, UnsupportedError, UsageError
from s3pool.location import S3Path
from s3pool.model import format_iso_time
from s3pool.s3 import settings as s3
from s3pool.s3.documents import iso_millis
from s3pool.s3.settings import Place, build_setting, unsupported
from s3pool.units import parse_duration, parse_time_or_age

MODES = ("GOVERNANCE", "COMPLIANCE")
UNITS = {"d": "Days", "y": "Years"}
DAYS_PER_YEAR = 365
TIERS = ("Standard", "Bulk", "Expedited")
ENCRYPTIONS = {"sse-s3": "AES256", "AES256": "AES256", "sse-kms": "aws:kms", "aws:kms": "aws:kms"}
LIST, SHOW, REMOVE = ("ls", "list", "show"), ("show", "info", "get", "ls", "list"), ("rm", "remove", "clear")


def _remove(run: Run, place: Place) -> None:
    run.delete(place)


def _put_file(run: Run, place: Place) -> Any:
    value = run.file()
    run.put(place, value)
    return value


def _status(default: str) -> Callable[[Run, Place], str]:
    return lambda run, place: str((run.get(place) or {}).get("Status") or default)


def _put_status(status: str) -> Callable[[Run, Place], str]:
    def act(run: Run, place: Place) -> str:
        run.put(place, {"Status": status})
        return status

    return act


def _tags(run: Run, place: Place) -> dict[str, str]:
    found = ((run.get(place) or {}).get("TagSet") or {}).get("Tags", [])
    # In one order, which versitygw changes from answer to answer.
    return dict(sorted((tag["Key"], tag["Value"]) for tag in found))


def _tags_text(tags: dict[str, str]) -> str:
    return "&".join(f"{name}={value}" for name, value in tags.items()) or NONE


def _remove_tags(run: Run, place: Place) -> None:
    """Remove all tags; Ceph RGW 16 keeps those of versioned objects, but takes an empty set."""
    run.delete(place)
    if _tags(run, place) and not run.ctx.dry_run:
        run.put(place, {"TagSet": {}})


def _set_tags(run: Run, place: Place) -> dict[str, str]:
    pairs = [pair.partition("=") for word in run.values for pair in word.split("&")]
    for name, equals, value in pairs:
        if not (name and equals):
            raise UsageError(f"{name}{equals}{value} is not K=V")
    tags = {name: value for name, _, value in pairs}
    run.put(place, {"TagSet": {"Tags": [{"Key": name, "Value": value} for name, value in tags.items()]}})
    return tags


def _retention(run: Run, place: Place) -> Any:
    found = run.get(place) or {}
    if not place.key:
        found = (found.get("Rule") or {}).get("DefaultRetention") or {}
    until = {"RetainUntilDate": iso_millis(found["RetainUntilDate"])} if "RetainUntilDate" in found else {}
    return found | until if found.get("Mode") else None


def _retention_text(value: Any) -> str:
    if "RetainUntilDate" in value:
        return f"{value['Mode']} until {value['RetainUntilDate']}"
    return f"{value['Mode']} {' '.join(f'{value[unit]} {unit.lower()}' for unit in UNITS.values() if unit in value)}"


def _set_retention(run: Run, place: Place) -> Any:
    mode, time = run.values[0].upper(), run.values[1]
    if mode not in MODES:
        raise UsageError(f"{run.values[0]} is no mode of retention; there are {' and '.join(MODES)}")
    term = re.fullmatch("([1-9][0-9]*)([dy])", time)
    if place.key:
        value = {"Mode": mode, "RetainUntilDate": format_iso_time(_until(time, run))}
        run.put(place, value)
        return value
    if term is None:
        raise UsageError(f"{time}: a bucket keeps its objects for days or years: 30d, 1y")
    rule = {"Mode": mode, UNITS[term[2]]: int(term[1])}
    run.put(place, {"ObjectLockEnabled": "Enabled", "Rule": {"DefaultRetention": rule}})
    return rule


def _until(time: str, run: Run) -> float:
    if re.fullmatch("[0-9]+y", time):
        time = f"{int(time[:-1]) * DAYS_PER_YEAR}d"
    try:
        return run.ctx.now() + parse_duration(time)
    except UsageError:
        return parse_time_or_age(time, 0.0)


def _clear_retention(run: Run, place: Place) -> None:
    try:
        run.put(place, {} if place.key else {"ObjectLockEnabled": "Enabled"})
    except S3Error as exc:
        if exc.code != "MalformedXML":
            raise
        raise unsupported(s3.RETENTION, exc.resource, f"clearing it is {exc.code} at {exc.endpoint}") from exc


def _access(run: Run, place: Place) -> str:
    return settings.access_of(run.get(place), S3Path(place.bucket, place.key))


def _set_access(run: Run, place: Place) -> str:
    word = settings.WORDS.get(run.values[0])
    if word is None:
        raise UsageError(f"{run.values[0]} is no access; there are {', '.join(settings.ACCESSES)}")
    before = run.get(place)
    after = settings.with_access(before, S3Path(place.bucket, place.key), word)
    if after is not None:
        run.put(place, after)
    elif before is not None:
        run.delete(place)
    return word


def _rules(run: Run, place: Place) -> list[Any]:
    return list((run.get(place) or {}).get("Rules", []))


def _rules_text(rules: list[Any]) -> str:
    return "\n".join(map(settings.rule_text, rules)) or NONE


def _put_rules(run: Run, place: Place, rules: list[Any]) -> None:
    """Replace the rules, and bring those before back where the server has not understood them.

    Ceph RGW 16 forgets the prefix beside tags, and would delete what was not meant.
    """
    before = run.get(place)
    run.put(place, {"Rules": rules})
    kept = rules if run.ctx.dry_run else _rules(run, place)
    if sorted(map(settings.rule_words, rules)) == sorted(map(settings.rule_words, kept)):
        return
    if before:
        run.put(place, before)
    else:
        run.delete(place)
    missing = [rule for rule in kept if settings.rule_words(rule) not in list(map(settings.rule_words, rules))]
    raise UnsupportedError(
        f"s3/{place.bucket}: this server does not know all of these lifecycle rules: it made "
        f"{_rules_text(missing)} of one; nothing was changed"
    )


def _import_rules(run: Run, place: Place) -> Any:
    value = run.file()
    build_setting(s3.LIFECYCLE, value)
    if not value.get("Rules"):
        raise UsageError("the document has no Rules; ilm rm --all removes them")
    _put_rules(run, place, value["Rules"])
    return value


def _add_rule(run: Run, place: Place) -> Any:
    rule = settings.rule_of(run.args)
    _put_rules(run, place, [*(other for other in _rules(run, place) if other.get("ID") != rule["ID"]), rule])
    return rule


def _remove_rules(run: Run, place: Place) -> list[str]:
    wanted = run.args.id
    if bool(wanted) == run.args.all:
        raise UsageError("ilm rm needs --id ID, or --all")
    if run.args.all and not (run.args.force or run.ctx.dry_run):
        raise UsageError("ilm rm --all removes every rule: say that you mean it by --force")
    rules = _rules(run, place)
    kept = [rule for rule in rules if wanted and rule.get("ID") != wanted]
    if wanted and len(kept) == len(rules):
        raise UsageError(f"s3/{place.bucket} has no rule {wanted}; s3pool ilm ls s3/{place.bucket} shows them")
    if kept:
        _put_rules(run, place, kept)
    else:
        run.delete(place)
    return [rule.get("ID", "") for rule in rules if rule not in kept]


def _encryption(run: Run, place: Place) -> Any:
    rules = (run.get(place) or {}).get("Rules", [])
    return next((rule.get("ApplyServerSideEncryptionByDefault") for rule in rules), None)


def _encryption_text(value: Any) -> str:
    return " ".join(filter(None, (value.get("SSEAlgorithm", ""), value.get("KMSMasterKeyID", ""))))


def _set_encryption(run: Run, place: Place) -> Any:
    how, _, key = run.values[0].partition("=")
    algorithm = ENCRYPTIONS.get(how)
    if algorithm is None or (key and algorithm == "AES256"):
        raise UsageError(f"{run.values[0]} is no encryption; there are sse-s3, sse-kms and sse-kms=KEYID")
    value = {"SSEAlgorithm": algorithm, **({"KMSMasterKeyID": key} if key else {})}
    run.put(place, {"Rules": [{"ApplyServerSideEncryptionByDefault": value}]})
    return value


def _restore(run: Run, place: Place) -> Any:
    value = {"Days": run.args.days, "GlacierJobParameters": {"Tier": run.args.tier}}
    if not run.ctx.dry_run:
        run.client.restore(place, value=value)
    return value


def _tree_flags(parser: argparse.ArgumentParser) -> None:
    switch(parser, "-r", "--recursive", help="every object below each path")
    switch(parser, "--versions", help="with -r: every version of them")
    text_flag(parser, "--version-id", "ID", help="one version of the object")


def _retention_flags(parser: argparse.ArgumentParser) -> None:
    switch(parser, "--default", help="what new objects of the bucket get: as s3/BUCKET alone")
    switch(parser, "--bypass-governance", help="use the right to shorten and clear GOVERNANCE")


def _restore_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--days", type=positive_int, default=1, metavar="N", help="keep the copy so long (1)")
    parser.add_argument("--tier", choices=TIERS, default=TIERS[0], help="how fast (Standard)")


def _changes(names: str, act: Callable[[Run, Place], Any], done: str, before: str = "", after: str = "") -> Action:
    return Action(tuple(names.split("|")), act, done=done, before=tuple(before.split()), after=after)


def _document_actions(what: str) -> tuple[Action, ...]:
    show = Action(SHOW, Run.get, document)
    return show, _changes("set", _put_file, f"{what} set", after=FILE), Action(REMOVE, _remove, done=f"{what} removed")


ROWS = (
    SettingsCommand("tag", BOTH, ("tag set s3/photos/a.jpg owner=me",),
        (Action(LIST, _tags, _tags_text),
         _changes("set", _set_tags, "Tags set", after="K=V..."),
         Action(REMOVE, _remove_tags, done="Tags removed")),
        s3.BUCKET_TAGS, s3.OBJECT_TAGS, (_tree_flags,)),
    SettingsCommand("version", BUCKETS, ("version enable s3/photos",),
        (Action(SHOW, _status("Off"), str),
         _changes("enable", _put_status("Enabled"), "Versions enabled"),
         _changes("suspend", _put_status("Suspended"), "Versions suspended")),
        s3.VERSIONING),
    SettingsCommand("retention", BOTH, ("retention set GOVERNANCE 30d s3/photos/a.jpg",),
        (Action(SHOW, _retention, _retention_text),
         _changes("set", _set_retention, "Retention set", "MODE TIME"),
         _changes("clear|rm|remove", _clear_retention, "Retention cleared")),
        s3.LOCK, s3.RETENTION, (_tree_flags, _retention_flags)),
    SettingsCommand("legalhold", OBJECTS, ("legalhold on s3/photos/a",),
        (Action(SHOW, _status("OFF"), str),
         _changes("on|set", _put_status("ON"), "Legal hold on"),
         _changes("off|clear", _put_status("OFF"), "Legal hold off")),
        s3.LEGAL_HOLD, s3.LEGAL_HOLD, (_tree_flags,)),
    SettingsCommand("policy", BUCKETS, ("policy set s3/photos policy.json",),
        _document_actions("Policy"), s3.POLICY),
    SettingsCommand("anonymous", "s3/BUCKET or s3/BUCKET/PREFIX", ("anonymous set download s3/photos/public/",),
        (Action(SHOW, _access, str),
         _changes("|".join(("set", *settings.WORDS)), _set_access, "Access set", "|".join(settings.ACCESSES)),
         Action(("get-json",), Run.get, document),
         _changes("set-json", _put_file, "Policy set", "FILE")),
        s3.POLICY),
    SettingsCommand("ilm", BUCKETS, ("ilm add s3/logs --prefix old/ --expire-days 30",),
        (Action(LIST, _rules, _rules_text),
         _changes("add", _add_rule, "Rule added"),
         Action(REMOVE, _remove_rules, done="Rules removed"),
         Action(("export",), Run.get, document),
         _changes("import", _import_rules, "Rules imported", after=FILE)),
        s3.LIFECYCLE, flags=(settings.add_rule_flags,)),
    SettingsCommand("cors", BUCKETS, ("cors set s3/site cors.json",),
        _document_actions("CORS rules"), s3.CORS),
    SettingsCommand("encrypt", BUCKETS, ("encrypt set sse-s3 s3/photos",),
        (Action(SHOW, _encryption, _encryption_text),
         _changes("set", _set_encryption, "Encryption set", "sse-s3|sse-kms[=KEYID]"),
         Action(REMOVE, _remove, done="Encryption removed")),
        s3.ENCRYPTION),
    SettingsCommand("restore", OBJECTS, ("restore --days 7 s3/archive/2019.tar",),
        (_changes("", _restore, "Restore begun"),), s3.RESTORE, s3.RESTORE, (_tree_flags, _restore_flags)),
)  # fmt: skip


COMMANDS = {each.name: each for each in ROWS}


def facts_of(path: S3Path, version_id: str, args: argparse.Namespace, ctx: Context) -> Iterator[tuple[str, str, Any]]:
    """Yield name, text and value of each setting of a bucket or an object; one request each."""
    place = Place(path.bucket, path.key, version_id)
    for each in ROWS:
        show = each.actions[0]
        if show.text is None or (each.of_objects is None if path.key else each.places == OBJECTS):
            continue
        try:
            value = show.act(Run(each, show, args, ctx, []), place)
        except (S3Error, UnsupportedError):
            continue  # what cannot be read is not shown: a command of its own tells why
        yield each.name, NONE if value is None else ("set" if show.text is document else show.text(value)), value
