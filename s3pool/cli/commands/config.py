"""s3pool config: every option's value and origin, secrets hidden; profiles from the configuration of other tools."""

from __future__ import annotations

import json
import os
import re
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from s3pool.cli.context import Context
from s3pool.cli.output import DONE, SKIPPED
from s3pool.cli.parser import switch
from s3pool.config.aws_files import read_ini
from s3pool.config.files import (
    DEFAULT_PROFILE,
    PROFILES,
    SourceFile,
    is_present,
    load_config_file,
    parse_yaml,
    read_source,
)
from s3pool.config.options import Config
from s3pool.config.values import FALSE_WORDS
from s3pool.errors import ConfigError, S3PoolError, describe_os_error

EXAMPLES = ("config", "config --profile old", "config import mc --dry-run")
UNSET = "-"  # an empty column would shift the next one for scripts that split at blanks

MAX_ALIGNED = (16, 32)  # a longer name or value, such as many endpoints, must not widen the column of all lines

Row = tuple[str, str, str]


def add_arguments(parser: ArgumentParser) -> None:
    """Add the description, and what ``config import`` takes."""
    parser.epilog = (
        "Print each option, its value and its origin. Secrets are hidden. "
        "The origin is a flag, a variable, a file and its key, or the default. "
        "Names that stand for several nodes are looked up, and each node has a line."
    )
    parser.add_argument(
        "action", nargs="?", choices=("import",), help="write profiles from what other tools are configured for"
    )
    parser.add_argument("tool", nargs="?", choices=tuple(TOOLS), help="which tool (all that are found)")
    switch(parser, "--force", help="with import: replace profiles of the same name")


def run(args: Namespace, ctx: Context) -> int:
    """Print the configuration, or import; missing endpoints or keys are a warning and no failure."""
    if args.action:
        return _import_profiles(args, ctx)
    config = ctx.config
    rows, problems = config.rows(), missing(config)
    try:
        rows += _found_nodes(config)
    except S3PoolError as exc:
        problems.append(exc.message)
    if ctx.out.json:
        for option, value, origin in rows:
            ctx.out.record({"type": "config", "option": option, "value": value, "origin": origin})
    else:
        for line in format_rows(
            [(name, ctx.out.escape(value), ctx.out.escape(origin)) for name, value, origin in rows]
        ):
            ctx.out.line(line)
    for problem in problems:
        ctx.out.warn(problem)
    return 0


def _found_nodes(config: Config) -> list[Row]:
    if config.resolve != "all" and not any(endpoint.discovery for endpoint in config.endpoints):
        return []
    from s3pool.session import open_session

    with open_session(config.replace(sign=False)) as session:
        return [("node", endpoint.spec, "name service") for endpoint in session.transport.endpoints]


def format_rows(rows: Sequence[Row]) -> list[str]:
    """Return lines of option, value and origin; what is too long to align shifts its own line only."""
    shown = [(name, value or UNSET, origin) for name, value, origin in rows]
    aligned = [row for row in shown if len(row[0]) <= MAX_ALIGNED[0]]
    widths = [max(len(row[column]) for row in aligned if len(row[column]) <= MAX_ALIGNED[column]) for column in (0, 1)]
    return [f"{name:<{widths[0]}}  {value:<{widths[1]}}  {origin}" for name, value, origin in shown]


def missing(config: Config) -> list[str]:
    """Return what must be set before any other command works."""
    problems = []
    for check in (config.require_endpoints, lambda: config.require_credentials(is_set=True)):
        try:
            check()
        except ConfigError as exc:
            problems.append(exc.message)
    return problems


IMPORTED, REPLACED, UNCHANGED, KEPT = "imported", "replaced", "unchanged", "kept"


def _import_profiles(args: Namespace, ctx: Context) -> int:
    """Write the profiles; one that is there with other settings is kept, without --force."""
    home = os.path.expanduser("~")
    path = ctx.config.config_file or os.path.join(home, ".s3pool", "config.yaml")
    document = _read_document(path)
    known: Any = document.get(PROFILES) or ({"default": {}} if document else {})
    taken = {str(name): dict(settings or {}) for name, settings in known.items()}
    states: list[tuple[_FoundProfile, str]] = []
    for found in _find_profiles(args.tool or "", _Place(ctx.environ, home)):
        settings, is_ours = dict(found.settings), any(found.name == other.name for other, _ in states)
        state = IMPORTED if found.name not in taken else UNCHANGED if taken[found.name] == settings else KEPT
        if state == KEPT and args.force and not is_ours:
            state = REPLACED
        if state in (IMPORTED, REPLACED):
            taken[found.name] = settings
        states.append((found, state))
    changed = {found.name: found.settings for found, state in states if state in (IMPORTED, REPLACED)}
    if changed and not ctx.dry_run:
        _add_profiles(path, changed)
    for found, state in states:
        _tell(found, state, path, ctx)
    if changed:
        ctx.out.remark(f"{path}: use {next(iter(changed))}/BUCKET/KEY or --profile NAME, or set default_profile")
    return SKIPPED if any(state == KEPT for _, state in states) else DONE


def _tell(found: _FoundProfile, state: str, path: str, ctx: Context) -> None:
    url = str(found.settings.get("endpoints", ""))
    record = {"type": "profile", "name": found.name, "state": state, "tool": found.tool, "endpoints": url, "file": path}
    if state == KEPT:
        ctx.out.warn(
            f"the profile {found.name} of {found.file} is left out: there is one of this name; --force replaces it"
        )
    line = f"Profile {'would be ' if ctx.dry_run and state in (IMPORTED, REPLACED) else ''}{state}: {found.name}"
    ctx.out.result(ctx.out.escape(f"{line} ({found.tool}, {url})"), record)


AWS_URL = "https://s3.{region}.amazonaws.com"
DEFAULT_REGION = "us-east-1"
PLACEHOLDER = "YOUR-"  # what mc writes where a user has not filled in a key
ADDRESSING = {"on": "path", "off": "virtual", "path": "path", "dns": "virtual", "true": "path", "false": "virtual"}
ENCRYPTED = "RCLONE_ENCRYPT"


class _FoundProfile(NamedTuple):
    """One profile of another tool: its settings by our keys, without those that it does not set."""

    name: str
    tool: str
    file: str
    settings: Mapping[str, str | bool]


class _Place(NamedTuple):
    """Where a user's files are: the environment, and the home directory."""

    environ: Mapping[str, str]
    home: str

    def file(self, variable: str, *names: str) -> str:
        """Return the path that a variable names, else one in the home directory."""
        return os.path.expanduser(self.environ.get(variable) or os.path.join(self.home, *names))


def _find_profiles(tool: str, place: _Place) -> list[_FoundProfile]:
    """Return the profiles of a tool, or with "" of all tools; without keys where AWS's files have them."""
    tools = [TOOLS[tool]] if tool else list(TOOLS.values())
    found = [profile for find, _ in tools for profile in find(place)]
    if not found:
        raise ConfigError(f"there is nothing to import: looked at {', '.join(files for _, files in tools)}")
    return found


def _profile(name: str, tool: str, file: str, **settings: str | bool | None) -> _FoundProfile:
    return _FoundProfile(name, tool, file, {key: value for key, value in settings.items() if value not in (None, "")})


def _of_mc(place: _Place) -> Iterator[_FoundProfile]:
    path = os.path.join(place.file("MC_CONFIG_DIR", ".mc"), "config.json")
    if not is_present(path):
        return
    try:
        aliases = json.loads(read_source(path).text)["aliases"]
        for name, alias in aliases.items():
            if PLACEHOLDER in alias.get("accessKey", ""):
                continue
            yield _profile(
                name,
                "mc",
                path,
                endpoints=alias["url"].rstrip("/"),
                access_key=alias.get("accessKey"),
                secret_key=alias.get("secretKey"),
                session_token=alias.get("sessionToken"),
                sign=None if alias.get("accessKey") else False,
                addressing=ADDRESSING.get(alias.get("path", "")),
            )
    except (ValueError, KeyError, AttributeError, TypeError) as exc:
        raise ConfigError(f"{path}: this is not the form of mc's aliases ({type(exc).__name__})") from exc


def _of_rclone(place: _Place) -> Iterator[_FoundProfile]:
    base = place.environ.get("XDG_CONFIG_HOME") or os.path.join(place.home, ".config")
    path = place.environ.get("RCLONE_CONFIG") or os.path.join(base, "rclone", "rclone.conf")
    if is_present(path) and ENCRYPTED in read_source(path).text:
        raise ConfigError(f"{path} is encrypted: rclone config show prints it; keep that in a file of mode 0600")
    for name, words in read_ini(path).items():
        if words.get("type") != "s3":
            continue
        has_keys = bool(words.get("access_key_id"))
        yield _profile(
            name,
            "rclone",
            path,
            endpoints=_url(words.get("endpoint", ""), words.get("region", "")),
            access_key=words.get("access_key_id"),
            secret_key=words.get("secret_access_key"),
            session_token=words.get("session_token"),
            region=words.get("region"),
            sign=None if has_keys or words.get("env_auth") == "true" else False,
            addressing=ADDRESSING.get(words.get("force_path_style", "")),
        )


def _of_s3cmd(place: _Place) -> Iterator[_FoundProfile]:
    path = place.file("S3CMD_CONFIG", ".s3cfg")
    words = read_ini(path).get("default", {})
    if not words:
        return
    is_plain = words.get("use_https", "True").lower() in FALSE_WORDS
    region = words.get("bucket_location", "")
    yield _profile(
        "s3cmd",
        "s3cmd",
        path,
        endpoints=_url(words.get("host_base", ""), region, scheme="http" if is_plain else "https"),
        access_key=words.get("access_key"),
        secret_key=words.get("secret_key"),
        session_token=words.get("access_token"),
        region="" if region == "US" else region,
        addressing="virtual" if words.get("host_bucket", "").startswith("%(bucket)s.") else "path",
        ca_bundle=words.get("ca_certs_file"),
        insecure=True if words.get("check_ssl_certificate", "True").lower() in FALSE_WORDS else None,
    )


def _of_aws(place: _Place, *, tool: str = "aws", url: str = "") -> Iterator[_FoundProfile]:
    """Yield AWS's profiles without their keys, which are read from AWS's files by the profile's name."""
    path = place.file("AWS_CONFIG_FILE", ".aws", "config")
    credentials = place.file("AWS_SHARED_CREDENTIALS_FILE", ".aws", "credentials")
    sections = {name.removeprefix("profile "): words for name, words in read_ini(path).items()}
    for name in {**sections, **read_ini(credentials)}:
        if name.partition(" ")[0] in ("services", "sso-session"):
            continue
        words = sections.get(name, {})
        given = url or words.get("endpoint_url", "") or _url("", words.get("region", ""))
        yield _profile(
            name, tool, path if name in sections else credentials, endpoints=given, region=words.get("region")
        )


def _of_s5cmd(place: _Place) -> Iterator[_FoundProfile]:
    """Yield AWS's profiles with the endpoint that s5cmd takes from its variable."""
    if url := place.environ.get("S3_ENDPOINT_URL"):
        yield from _of_aws(place, tool="s5cmd", url=url)


def _url(text: str, region: str, *, scheme: str = "https") -> str:
    if not text:
        return AWS_URL.format(region=region or DEFAULT_REGION)
    return text.rstrip("/") if "://" in text else f"{scheme}://{text}"


TOOLS: Mapping[str, tuple[Callable[[_Place], Iterator[_FoundProfile]], str]] = {
    "mc": (_of_mc, "~/.mc/config.json"),
    "rclone": (_of_rclone, "~/.config/rclone/rclone.conf"),
    "s3cmd": (_of_s3cmd, "~/.s3cfg"),
    "s5cmd": (_of_s5cmd, "S3_ENDPOINT_URL with ~/.aws"),
    "aws": (_of_aws, "~/.aws"),
}

Settings = Mapping[str, object]
PROFILES_LINE = re.compile(r"^profiles:[ \t]*(#.*)?$", re.MULTILINE)
SECRET_MODE = 0o600
PLAIN_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")


def _read_document(path: str) -> dict[str, object]:
    """Return the document of a configuration file, which is sound; a missing file is an empty one."""
    if not is_present(path):
        return {}
    load_config_file(path)
    return parse_yaml(read_source(path))


def _add_profiles(path: str, profiles: Mapping[str, Settings]) -> None:
    """Put profiles into a configuration file, in place of those of the same name.

    What is used without --profile stays the same.
    """
    path = os.path.realpath(path)
    before = _read_document(path)
    text = read_source(path).text if is_present(path) else ""
    known: Any = before.get(PROFILES) or {}
    # An empty profile, by which settings outside of profiles go on being what is used.
    added = {**({} if known else {"default": {}}), **profiles}
    for name in known.keys() & added.keys():
        text = _without(text, name)
    text = _with(text, added)
    if len(known) == 1 and not before.get(DEFAULT_PROFILE) and "default" not in known:
        text = f"{DEFAULT_PROFILE}: {json.dumps(next(iter(known)))}\n{text}"
    try:
        is_right = parse_yaml(SourceFile(path, text, SECRET_MODE)).get(PROFILES) == {**known, **added}
    except ConfigError:
        is_right = False
    if not is_right:
        raise ConfigError(f"{path} is written in a way that nothing can be added to: write its profiles: one a line")
    _replace(path, text)


def _with(text: str, profiles: Mapping[str, Settings]) -> str:
    entry = PROFILES_LINE.search(text)
    indent = "  "
    if entry is not None and (first := re.match(r"(?:\s*#.*\n|\s*\n)*([ \t]+)\S", text[entry.end() :].lstrip("\n"))):
        indent = first[1]
    lines = []
    for name, settings in profiles.items():
        key = name if PLAIN_NAME.fullmatch(name) else json.dumps(name)
        lines.append(f"{indent}{key}:{'' if settings else ' {}'}")
        lines += [f"{indent}  {key}: {json.dumps(value)}" for key, value in settings.items()]
    block = "\n".join(lines)
    if entry is None:
        return f"{text.rstrip()}\n\n{PROFILES}:\n{block}\n".lstrip("\n")
    return f"{text[: entry.end()]}\n{block}{text[entry.end() :]}"


def _without(text: str, name: str) -> str:
    """Leave out the block of a profile: its line, and those below that are indented deeper."""
    names = "|".join(re.escape(form) for form in (name, json.dumps(name), f"'{name}'"))
    pattern = rf"^([ \t]+)(?:{names}):.*\n(?:\1[ \t]+.*\n|[ \t]*\n)*"
    return re.sub(pattern, "", f"{text.rstrip()}\n", count=1, flags=re.MULTILINE)


def _replace(path: str, text: str) -> None:
    part = f"{path}.{os.getpid()}.new"
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, SECRET_MODE), "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        load_config_file(part)
        os.replace(part, path)
    except ConfigError as exc:
        raise ConfigError(exc.message.replace(part, path)) from exc
    except OSError as exc:
        raise ConfigError(f"cannot write {path}: {describe_os_error(exc)}") from exc
    finally:
        if os.path.exists(part):
            os.unlink(part)
