"""Read the files that settings come from, plain text and `.env`, and decide which to trust.

Every way in which a file can be wrong ends in one line of ConfigError that names the file.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from s3pool.config.options import DEFAULT_ORIGIN, Option, Setting
from s3pool.errors import ConfigError
from s3pool.record import dataclass

OTHERS_MAY_READ = stat.S_IRGRP | stat.S_IROTH
SECRET_ENV_NAMES = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "S3_SECRET")
MAX_SOURCE_BYTES = 16 << 20  # a settings file is not larger; /dev/zero is

ENDPOINT_VARIABLE = "AWS_ENDPOINT_URL"
ROOT = 0
FOUND_ORIGIN = "working directory"  # of a `.env` that the user did not name
# Settings that decide where requests go, and who can read them.
CONFIG = "config"
PLACES = (CONFIG, "endpoints", "resolver", "http_proxy", "insecure", "ca_bundle", "sts_endpoint")
KEYS = ("access_key", "secret_key", "session_token")


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file's path, text and mode bits."""

    path: str
    text: str
    mode: int

    def secrecy_warnings(self) -> tuple[str, ...]:
        """Return a warning when others may read the file; for callers that found a secret in it."""
        if not stat.S_ISREG(self.mode) or not self.mode & OTHERS_MAY_READ:
            return ()
        mode = stat.S_IMODE(self.mode)
        return (f"{self.path} holds a secret and others may read it (mode {mode:04o}); run: chmod 600 {self.path}",)


@dataclass(frozen=True, slots=True)
class EnvFile:
    """The variables of a `.env` file, and warnings about it."""

    values: Mapping[str, str]
    warnings: tuple[str, ...] = ()


def read_source(path: str, *, named_by: str = "") -> SourceFile:
    """Read a small UTF-8 text file; the message of a ConfigError ends with ``named_by``."""
    asked = f" ({named_by})" if named_by else ""
    try:
        with open(path, "rb") as stream:
            mode = os.fstat(stream.fileno()).st_mode
            content = stream.read(MAX_SOURCE_BYTES + 1)
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
        raise ConfigError(f"cannot read {path}{asked}: {reason}") from exc
    if len(content) > MAX_SOURCE_BYTES:
        raise ConfigError(f"cannot read {path}{asked}: it is larger than 16 MiB")
    try:
        return SourceFile(path, content.decode("utf-8-sig"), mode)
    except UnicodeDecodeError as exc:
        raise ConfigError(f"cannot read {path}{asked}: it is not UTF-8 (byte {exc.start})") from exc


def is_present(path: str) -> bool:
    """Return whether a default file exists and is a regular file.

    Directories and pipes do not count (reading a pipe would block), nor does a file in a
    directory that this user may not search, such as another user's home under sudo.
    """
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def load_env_file(path: str, *, named_by: str = "") -> EnvFile:
    """Read a `.env` file with python-dotenv; names without a value are left out.

    A malformed line is an error in a file that the user named, and a warning in one found in
    the working directory: that one may be another program's.
    """
    from io import StringIO

    from dotenv import dotenv_values
    from dotenv.parser import parse_stream

    source = read_source(path, named_by=named_by)
    broken = [binding.original.line for binding in parse_stream(StringIO(source.text)) if binding.error]
    warnings: list[str] = []
    if broken:
        message = f"{path}: line {broken[0]} cannot be read; write NAME=value"
        if named_by:
            raise ConfigError(message)
        warnings.append(message)
    with _silenced("dotenv.main"):
        # No interpolation: ${NAME} in a value could pull in another variable, such as the secret key.
        found = dotenv_values(stream=StringIO(source.text), interpolate=False)
    values = {name: value for name, value in found.items() if value}
    if any(name in values for name in SECRET_ENV_NAMES):
        warnings += source.secrecy_warnings()
    return EnvFile(values, tuple(warnings))


@contextmanager
def _silenced(logger_name: str) -> Iterator[None]:
    """Silence a library's logger: what it would write is reported here anyway."""
    import logging

    logger = logging.getLogger(logger_name)
    before = logger.disabled
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = before


def layer_from_environ(
    options: tuple[Option[Any], ...], environ: Mapping[str, str], *, source: str
) -> dict[str, Setting]:
    """Return the settings of environment variables: of an option's names the first that is set and not empty."""
    layer = {}
    for option in options:
        name = next((name for name in option.env if environ.get(name)), "")
        if name:
            layer[option.name] = Setting(environ[name], f"{source} {name}")
    return layer


def heeded(values: Mapping[str, str], ignores_endpoints: bool) -> Mapping[str, str]:
    """Leave out AWS's variables of endpoints where the user wants them ignored."""
    if not ignores_endpoints:
        return values
    return {name: value for name, value in values.items() if not name.startswith(ENDPOINT_VARIABLE)}


def without(layers: Sequence[Mapping[str, Setting]], *options: Option[Any]) -> list[Mapping[str, Setting]]:
    """Return layers without some options."""
    names = {option.name for option in options}
    return [{name: setting for name, setting in layer.items() if name not in names} for layer in layers]


def only(layer: Mapping[str, Setting], options: Sequence[Option[Any]]) -> Mapping[str, Setting]:
    """Return some options of a layer."""
    names = {option.name for option in options}
    return {name: setting for name, setting in layer.items() if name in names}


def why_not_read(path: str) -> str:
    """Return why a `.env` file found in the working directory is not trusted; "" when it is.

    Its owner must be the caller or root, and nobody else may write to it or to its directory.
    """
    real = os.path.realpath(path)
    for place in dict.fromkeys((real, os.path.dirname(real), os.path.dirname(path))):
        facts = os.stat(place)
        if facts.st_uid not in (ROOT, os.geteuid()):
            return f"another user owns {place}"
        by_group = facts.st_mode & stat.S_IWGRP and not _is_own_group(facts.st_gid)
        if facts.st_mode & stat.S_IWOTH or by_group:
            return f"others may write to {place} (mode {stat.S_IMODE(facts.st_mode):04o})"
    return ""


def _is_own_group(gid: int) -> bool:
    """Return whether a group is the caller's own and has no other member."""
    import grp
    import pwd

    try:
        group, user = grp.getgrgid(gid), pwd.getpwuid(os.geteuid())
    except KeyError:
        return False
    return group.gr_gid == user.pw_gid and group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name}


def check_keys(origins: Mapping[str, str], *, env_path: str, config_path: str, places: Sequence[str]) -> None:
    """Refuse to send keys from another source where a `.env` found in the directory points.

    ``places`` are the settings that decide where requests go. ``config_path`` is the configuration file when the `.env`
    chose that file or its profile, else "": keys in that file may go where the same file says.
    """
    for place in places:
        origin = origins.get(place, "")
        homes: tuple[str, ...] = (env_path,) if _is_from(origin, env_path) else ()
        if config_path and (_is_from(origin, config_path) or (homes and place == CONFIG)):
            homes = (config_path, env_path)
        own = tuple(f"{home}:" for home in homes)
        set_keys = [key for key in KEYS if origins.get(key, DEFAULT_ORIGIN) != DEFAULT_ORIGIN]
        foreign = [key for key in set_keys if not origins[key].startswith(own)]
        if homes and foreign:
            raise ConfigError(
                f"{origin} decides on {place}, but {foreign[0]} is of another source ({origins[foreign[0]]}): keys go "
                f"only where their own source sends them; if that file is to be trusted, name it: --env-file {env_path}"
            )


def _is_from(origin: str, path: str) -> bool:
    return origin.startswith(f"{path}:")
