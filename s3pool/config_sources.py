"""Read the files that settings come from: plain text, `.env`, and AWS's own.

Every way in which a file can be wrong ends in one line of ConfigError that names it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from s3pool.config_options import Option, Setting
from s3pool.errors import ConfigError
from s3pool.record import dataclass

OTHERS_MAY_READ = stat.S_IRGRP | stat.S_IROTH
SECRET_ENV_NAMES = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "S3_SECRET")
MAX_SOURCE_BYTES = 16 << 20  # a settings file is not larger; /dev/zero is
AWS_KEYS = {
    "access_key": "aws_access_key_id",
    "secret_key": "aws_secret_access_key",
    "session_token": "aws_session_token",
}


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file's path, its text, and the bits of its mode."""

    path: str
    text: str
    mode: int

    def secrecy_warnings(self) -> tuple[str, ...]:
        """Warn when others may read the secrets that the caller found in it."""
        if not stat.S_ISREG(self.mode) or not self.mode & OTHERS_MAY_READ:
            return ()
        mode = stat.S_IMODE(self.mode)
        return (f"{self.path} holds a secret and others may read it (mode {mode:04o}); run: chmod 600 {self.path}",)


@dataclass(frozen=True, slots=True)
class EnvFile:
    """What a `.env` file sets, and what is to be said about it."""

    values: Mapping[str, str]
    warnings: tuple[str, ...] = ()


def read_source(path: str, *, named_by: str = "") -> SourceFile:
    """Read a small UTF-8 text file.

    Raises:
        ConfigError: it cannot be read or decoded; ``named_by`` says who asked for it.
    """
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
    """Say whether a file that nobody asked for is there.

    A directory of that name is none, nor is a pipe, which would be waited for, nor what lies
    in a directory that this user may not search, such as another user's home in a job started
    by sudo.
    """
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def load_env_file(path: str, *, named_by: str = "") -> EnvFile:
    """Read a `.env` file with python-dotenv; names without a value are left out.

    A line that makes no sense is an error in a file that was asked for, and a warning in the
    one that happens to lie in the working directory: that may be another program's.

    Raises:
        ConfigError: it cannot be read, or was asked for and has such a line.
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
        # As they stand: a name in a value would fetch another one, such as the secret key.
        found = dotenv_values(stream=StringIO(source.text), interpolate=False)
    values = {name: value for name, value in found.items() if value}
    if any(name in values for name in SECRET_ENV_NAMES):
        warnings += source.secrecy_warnings()
    return EnvFile(values, tuple(warnings))


@contextmanager
def _silenced(logger_name: str) -> Iterator[None]:
    """Keep a library's own line about what is reported here anyway from stderr."""
    import logging

    logger = logging.getLogger(logger_name)
    before = logger.disabled
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = before


def layer_from_environ(
    options: tuple[Option[object], ...], environ: Mapping[str, str], *, source: str
) -> dict[str, Setting]:
    """Give the settings of environment variables; the first name of an option wins, empty ones are unset."""
    layer = {}
    for option in options:
        name = next((name for name in option.env if environ.get(name)), "")
        if name:
            layer[option.name] = Setting(environ[name], f"{source} {name}")
    return layer


@dataclass(frozen=True, slots=True)
class AwsFiles:
    """AWS's shared files and the section to take; ``required`` when the user named it."""

    credentials_path: str
    config_path: str
    section: str
    required: bool

    def load_keys(self) -> tuple[dict[str, Setting], tuple[str, ...]]:
        """Give the key pair's settings and warnings; empty when there is none.

        Raises:
            ConfigError: a file cannot be read, or the section that was asked for is in neither.
        """
        known = False
        for path, section in ((self.credentials_path, self.section), (self.config_path, self._config_section)):
            source, sections = read_ini(path)
            known = known or section in sections
            found = sections.get(section, {})
            layer = {
                option: Setting(found[name], f"{path} [{section}]")
                for option, name in AWS_KEYS.items()
                if found.get(name)
            }
            if "access_key" in layer or "secret_key" in layer:
                return layer, source.secrecy_warnings() if source else ()
        if self.required and not known:
            raise ConfigError(f"AWS_PROFILE: there is no profile {self.section!r} in {self.credentials_path}")
        return {}, ()

    def load_region(self) -> Setting | None:
        """Give the region that AWS's config file sets for the profile."""
        region = read_ini(self.config_path)[1].get(self._config_section, {}).get("region")
        return Setting(region, f"{self.config_path} [{self._config_section}]") if region else None

    @property
    def _config_section(self) -> str:
        return self.section if self.section == "default" else f"profile {self.section}"


def has_section(path: str, section: str) -> bool:
    """Say whether an INI file that may be missing has a section."""
    return section in read_ini(path)[1]


def read_ini(path: str) -> tuple[SourceFile | None, Mapping[str, Mapping[str, str]]]:
    """Read an INI file into maps by section; a missing one gives nothing.

    Raises:
        ConfigError: it cannot be read or parsed.
    """
    if not is_present(path):
        return None, {}
    import configparser

    source = read_source(path)
    parser = configparser.RawConfigParser(default_section="", strict=False)
    try:
        parser.read_string(source.text)
    except configparser.Error as exc:
        # Its own text quotes the line, which may be a secret.
        line = getattr(exc, "lineno", None) or next((number for number, _ in getattr(exc, "errors", ())), "?")
        raise ConfigError(f"{path}: line {line} cannot be read; AWS's form is [profile] and name = value") from exc
    return source, {name: dict(parser.items(name)) for name in parser.sections()}
