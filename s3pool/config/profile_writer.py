"""Add profiles to the configuration file: its text stays as the user wrote it, and only its owner may read it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping

from s3pool.config.sources import SourceFile, is_present, read_source
from s3pool.config.yaml_file import DEFAULT_PROFILE, PROFILES, load_config_file, parse_yaml
from s3pool.errors import ConfigError, describe_os_error

Settings = Mapping[str, object]
PROFILES_LINE = re.compile(r"^profiles:[ \t]*(#.*)?$", re.MULTILINE)
SECRET_MODE = 0o600
PLAIN_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")


def read_document(path: str) -> dict[str, object]:
    """Return the document of a configuration file; a missing file is an empty one."""
    return parse_yaml(read_source(path)) if is_present(path) else {}


def add_profiles(path: str, profiles: Mapping[str, Settings]) -> None:
    """Put profiles into a configuration file, in place of those of the same name.

    What is used without --profile stays the same.

    Raises:
        ConfigError: the file cannot be read or written, or is written in a way that cannot be added to.
    """
    path = os.path.realpath(path)
    before = read_document(path)
    text = read_source(path).text if is_present(path) else ""
    known = before.get(PROFILES) or {}
    wanted = {**known, **_kept_default(before), **profiles}  # type: ignore[dict-item]
    for name in {**_kept_default(before), **profiles}:
        text = _without(text, name) if name in known else text  # type: ignore[operator]
    text = _with(text, {**_kept_default(before), **profiles})
    if isinstance(known, dict) and len(known) == 1 and not before.get(DEFAULT_PROFILE) and "default" not in known:
        text = f"{DEFAULT_PROFILE}: {json.dumps(next(iter(known)))}\n{text}"
    try:
        is_right = parse_yaml(SourceFile(path, text, SECRET_MODE)).get(PROFILES) == wanted
    except ConfigError:
        is_right = False
    if not is_right:
        raise ConfigError(f"{path} is written in a way that nothing can be added to: write its profiles: one a line")
    _replace(path, text)


def _kept_default(before: Settings) -> dict[str, Settings]:
    """Return the empty profile by which settings outside of profiles go on being what is used."""
    return {} if before.get(PROFILES) else {"default": {}}


def _with(text: str, profiles: Mapping[str, Settings]) -> str:
    entry = PROFILES_LINE.search(text)
    indent = "  "
    if entry is not None and (first := re.match(r"(?:\s*#.*\n|\s*\n)*([ \t]+)\S", text[entry.end() :].lstrip("\n"))):
        indent = first[1]
    lines = []
    for name, settings in profiles.items():
        lines.append(f"{indent}{_key(name)}:{'' if settings else ' {}'}")
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


def _key(name: str) -> str:
    return name if PLAIN_NAME.fullmatch(name) else json.dumps(name)


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
