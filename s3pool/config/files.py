"""Read the files that settings come from, `.env` and YAML, and decide which to trust.

Every way in which a file can be wrong ends in one line of ConfigError that names the file.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from s3pool.config.options import DEFAULT_ORIGIN, Config, Setting
from s3pool.config.values import parse_bool, parse_text, type_name
from s3pool.errors import ConfigError
from s3pool.record import dataclass, field

OTHERS_MAY_READ = stat.S_IRGRP | stat.S_IROTH
SECRET_ENV_NAMES = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "S3_SECRET")
MAX_SOURCE_BYTES = 16 << 20  # a settings file is not larger; /dev/zero is

ROOT = 0
FOUND_ORIGIN = "working directory"  # of a `.env` that the user did not name
# Settings that decide where requests go, and who can read them.
CONFIG = "config"
PLACES = (CONFIG, "endpoints", "resolver", "http_proxy", "insecure", "ca_bundle", "sts_endpoint")
KEYS = ("access_key", "secret_key", "session_token")
Section = Mapping[str, object]

PROFILES = "profiles"
DEFAULT_PROFILE = "default_profile"
PROXY = "proxy"
ALWAYS_ON = "connection_pooling"  # the first s3pool had a switch; here there is only on
FAST_PARSER_LIMIT = 8192  # characters; a file that a person writes is shorter
SECRET_WORDS = r"secret|token|password"
OPTION_BY_KEY = {option.key: option for option in Config.OPTIONS}
PATH_OPTIONS = tuple(option.name for option in (Config.ca_bundle, Config.client_cert, Config.client_key))
SECTIONS = {key.partition(".")[0] for key in OPTION_BY_KEY if "." in key}


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


def load_env_file(path: str, *, named_by: str = "") -> tuple[dict[str, str], Sequence[str]]:
    """Return the variables of a `.env` file, but for those without a value, and warnings about it.

    A malformed line is an error in a file that the user named, and a warning in one found in
    the working directory: that one may be another program's.
    """
    from io import StringIO

    from dotenv.parser import parse_stream

    source = read_source(path, named_by=named_by)
    bindings = list(parse_stream(StringIO(source.text)))
    warnings: list[str] = []
    if broken := [binding.original.line for binding in bindings if binding.error]:
        warnings.append(f"{path}: line {broken[0]} cannot be read; write NAME=value")
        if named_by:
            raise ConfigError(warnings[0])
    # No interpolation: ${NAME} in a value could pull in another variable, such as the secret key.
    found = {binding.key: binding.value for binding in bindings}
    values = {name: value for name, value in found.items() if name and value}
    if any(name in values for name in SECRET_ENV_NAMES):
        warnings += source.secrecy_warnings()
    return values, warnings


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


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """A checked configuration file: raw settings by option name, for all and by profile."""

    path: str = ""
    common: Mapping[str, Setting] = field(default_factory=dict)
    profiles: Mapping[str, Mapping[str, Setting]] = field(default_factory=dict)
    default_profile: str = ""
    proxy_common: Section = field(default_factory=dict)
    proxy_by_profile: Mapping[str, Section] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def choose(self, asked: str) -> str:
        """Return the profile to use: the one asked for, the default, or the only one; "" without any."""
        names = ", ".join(sorted(self.profiles)) or "none"
        if asked:
            if asked not in self.profiles:
                raise ConfigError(f"{self.path or 'no configuration file'}: no profile {asked!r}; there are: {names}")
            return asked
        if self.default_profile:
            return self.default_profile
        if "default" in self.profiles:
            return "default"
        if len(self.profiles) > 1:
            raise ConfigError(
                f"{self.path}: there are several profiles ({names}) and no default_profile; "
                "set it, or use --profile NAME or S3POOL_PROFILE"
            )
        return next(iter(self.profiles), "")

    def proxy_section(self, profile: str) -> dict[str, object]:
        """Return the raw ``proxy:`` section; keys of the profile override the common ones."""
        return {**self.proxy_common, **self.proxy_by_profile.get(profile, {})}


def load_config_file(path: str, *, named_by: str = "") -> ConfigFile:
    """Read a configuration file and check all its profiles.

    Raises ConfigError: the file is unreadable, not YAML, or has an unknown key or a bad value.
    """
    source = read_source(path, named_by=named_by)
    document = parse_yaml(source)
    profiles = _as_section(document.get(PROFILES), f"{path}: {PROFILES}")
    top = {key: value for key, value in document.items() if key not in (PROFILES, DEFAULT_PROFILE)}
    sections = {
        _profile_name(name, path): _as_section(body, f"{path}: {PROFILES}.{name}") for name, body in profiles.items()
    }
    proxy = _as_section(top.get(PROXY), f"{path}: {PROXY}")
    return ConfigFile(
        path=path,
        common=_flatten(top, path, extra=(PROFILES, DEFAULT_PROFILE)),
        profiles={name: _flatten(body, path, inside=f"{PROFILES}.{name}.") for name, body in sections.items()},
        default_profile=_default_profile(document, proxy, sections=sections, path=path),
        proxy_common={key: value for key, value in proxy.items() if key != DEFAULT_PROFILE},
        proxy_by_profile={
            name: _as_section(body.get(PROXY), f"{path}: {PROFILES}.{name}.{PROXY}") for name, body in sections.items()
        },
        warnings=source.secrecy_warnings() if _holds_secret(document) else (),
    )


def parse_yaml(source: SourceFile) -> dict[str, object]:
    """Parse a document into a map; an empty document is an empty map."""
    import yaml

    # libyaml, where PyYAML was built with it, starts faster. But deep nesting crashes it where
    # the slow parser raises; only a long text can nest that deep.
    short = len(source.text) <= FAST_PARSER_LIMIT
    base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader) if short else yaml.SafeLoader
    loader: Any = type("Loader", (base,), {"construct_mapping": _construct_mapping(base)})
    try:
        document = yaml.load(source.text, loader)
    except yaml.MarkedYAMLError as exc:
        raise ConfigError(_yaml_problem(source, exc)) from exc
    except yaml.YAMLError as exc:
        raise ConfigError(f"{source.path}: it holds a character that YAML does not allow") from exc
    except (ValueError, RecursionError) as exc:
        # Dates that do not exist, and nesting without end.
        raise ConfigError(f"{source.path}: it is not usable YAML ({type(exc).__name__})") from exc
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise ConfigError(f"{source.path}: it must be a map of keys, not {type_name(document)}")
    return {str(key): value for key, value in document.items()}


def _construct_mapping(base: Any) -> Any:
    import yaml

    def construct_mapping(self: Any, node: Any, deep: bool = False) -> Any:
        seen = set()
        for key_node, _ in node.value:
            if isinstance(key_node, yaml.ScalarNode) and key_node.value in seen:
                problem = f"the key <{key_node.value}> stands there twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
            if isinstance(key_node, yaml.ScalarNode):
                seen.add(key_node.value)
        return base.construct_mapping(self, node, deep)

    return construct_mapping


def _yaml_problem(source: SourceFile, exc: Any) -> str:
    mark = exc.problem_mark or exc.context_mark
    if mark is None:
        return f"{source.path}: not valid YAML"
    line = f"{source.path}: line {mark.line + 1}"
    lines = source.text.splitlines()
    if mark.line < len(lines) and re.match(r" *\t", lines[mark.line]):
        return f"{line} is indented with a tab; YAML takes spaces only"
    problem = exc.problem or exc.context or "the form is wrong"
    if problem.startswith("but "):  # the first half of the sentence is in the context
        problem = f"{exc.context} {problem}"
    # What looks like an alias or a tag may be a secret that starts with * or !.
    problem = re.sub(r"'[^'<]{2,}'", "...", problem)
    return f"{line}, column {mark.column + 1}: not valid YAML: {problem}"


def _profile_name(name: object, path: str) -> str:
    if not isinstance(name, str) or not name:
        raise ConfigError(f"{path}: {PROFILES}: the name {name!r} must be text; put it in quotes")
    return name


def _default_profile(document: Section, proxy: Section, *, sections: Iterable[str], path: str) -> str:
    # The first s3pool kept this key in the proxy's section.
    key, value = DEFAULT_PROFILE, document.get(DEFAULT_PROFILE)
    if value is None:
        key, value = f"{PROXY}.{DEFAULT_PROFILE}", proxy.get(DEFAULT_PROFILE)
    if value is None:
        return ""
    try:
        name = parse_text(value)
    except ValueError as exc:
        raise ConfigError(f"{path}: {key}: {exc}") from exc
    if name not in sections:
        raise ConfigError(f"{path}: {key}: no profile {name!r}; there are: {', '.join(sorted(sections)) or 'none'}")
    return name


def _as_section(value: object, where: str) -> Section:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: must be a map of keys, not {type_name(value)}")
    return value


def _flatten(body: Section, path: str, *, inside: str = "", extra: Iterable[str] = ()) -> dict[str, Setting]:
    """Return the settings of a map by option name; each value is parsed once, so that errors show."""
    where = f"{path}: {inside}"
    layer: dict[str, Setting] = {}
    for key, value in body.items():
        if key in SECTIONS:
            for inner, deep in _as_section(value, f"{where}{key}").items():
                if not _is_always_on(f"{key}.{inner}", deep, where):
                    _add(layer, f"{key}.{inner}", deep, where=where)
        elif key == PROXY:
            _as_section(value, f"{where}{key}")
        else:
            _add(layer, str(key), value, where=where, extra=(*extra, PROXY, *SECTIONS))
    return _anchored(layer, os.path.dirname(path))


def _anchored(layer: dict[str, Setting], directory: str) -> dict[str, Setting]:
    """Make relative paths start at the configuration file: under cron the working directory differs."""
    for name in PATH_OPTIONS:
        setting = layer.get(name)
        if setting is not None and not str(setting.value).startswith("~/"):
            layer[name] = Setting(os.path.join(directory, str(setting.value)), setting.origin)
    return layer


def _is_always_on(key: str, value: object, where: str) -> bool:
    if key != f"load_balancer.{ALWAYS_ON}":
        return False
    try:
        if value is None or parse_bool(value):
            return True
    except ValueError as exc:
        raise ConfigError(f"{where}{key}: {exc}") from exc
    raise ConfigError(f"{where}{key}: connections are always pooled; remove the key")


def _add(layer: dict[str, Setting], key: str, value: object, *, where: str, extra: Iterable[str] = ()) -> None:
    option = OPTION_BY_KEY.get(key)
    if option is None:
        raise ConfigError(f"{where}{key}: unknown key{_suggest(key, (*OPTION_BY_KEY, *extra))}")
    if value is not None:
        setting = Setting(value, f"{where}{key}")
        option.read(setting)
        layer[option.name] = setting


def _suggest(key: str, known: Iterable[str]) -> str:
    # Imported late: only this message needs it.
    from difflib import get_close_matches

    by_last_word = {name.rpartition(".")[2]: name for name in known}
    near = get_close_matches(key, list(known), n=1) or get_close_matches(key.rpartition(".")[2], by_last_word, n=1)
    return f"; did you mean {by_last_word.get(near[0], near[0])}?" if near else ""


def _holds_secret(value: object) -> bool:
    if isinstance(value, dict):
        return any(
            (isinstance(inner, str) and bool(inner) and re.search(SECRET_WORDS, str(key)) is not None)
            or _holds_secret(inner)
            for key, inner in value.items()
        )
    return isinstance(value, list) and any(_holds_secret(inner) for inner in value)
