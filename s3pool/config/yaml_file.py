"""Read the configuration file: its shape, its keys, and the profile to use."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

from s3pool.config.options import Config, Setting
from s3pool.config.sources import SourceFile, read_source
from s3pool.config.values import parse_bool, parse_text, type_name
from s3pool.errors import ConfigError
from s3pool.record import dataclass, field

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

    Raises:
        ConfigError: the file is unreadable, not YAML, or has an unknown key or a bad value.
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
