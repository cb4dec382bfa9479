"""Settle the configuration: flags, environment, `.env`, YAML, AWS's files, defaults.

The sources are layers of raw settings. The first layer that has an option wins, and only that layer's value is parsed.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from s3pool.config import files
from s3pool.config.files import ConfigFile, is_present
from s3pool.config.options import CONFIG_FILE, DEFAULT_ORIGIN, ENV_FILE, PROFILE, Config, Option, Setting, SourceOption
from s3pool.config.values import TRUE_WORDS, KeySource
from s3pool.errors import ConfigError

if TYPE_CHECKING:
    from s3pool.config.aws_files import AwsFiles

T = TypeVar("T")
Layer = Mapping[str, Setting]

ENV_ORIGIN = "environment"
ENDPOINT_VARIABLE = "AWS_ENDPOINT_URL"
RESERVED_FILES = 64  # descriptors kept from the connections: standard streams, files, logs
UNKNOWN_FILE_LIMIT = 1024  # assumed where the system claims to have no limit
CREDENTIALS = (Config.access_key, Config.secret_key, Config.session_token)
# Which pool, and which user there: for a second pool these come from its profile alone.
IDENTITY = (
    Config.endpoints,
    *CREDENTIALS,
    Config.sts_endpoint,
    Config.sign,
    Config.region,
    Config.bucket,
    Config.addressing,
    Config.sticky,
)
KEYS_BY_STS = ("role", "web identity")
IGNORE_ENDPOINTS = "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS"
AWS_FILE_VARIABLES = {"AWS_SHARED_CREDENTIALS_FILE": "credentials", "AWS_CONFIG_FILE": "config"}
TRUST = (Config.insecure, Config.ca_bundle, Config.client_cert, Config.client_key)
# Which other programs heed. A pool on a local network must not be led away by them.
PROXY_VARIABLES = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")
PROXY_LISTEN = "PROXY_LISTEN"  # the first s3pool's variable; the flag --listen overrides it


def load_config(
    flags: Mapping[str, object], *, environ: Mapping[str, str], cwd: str, home: str, second_pool: str = ""
) -> Config:
    """Settle the configuration from every source, or that of a ``second_pool``, which a profile describes.

    ``flags`` holds the flags that were given, by name with underscores; None is absent. Nothing is asked of the
    network, and missing endpoints or keys are no error yet. Endpoints, keys and region of a second pool come from the
    profile alone, because flags and environment mean the first pool; timeouts and limits from the usual sources.

    Raises ConfigError: a file or a value is wrong, or there is no such profile; the message names it.
    """
    if second_pool:
        flags = {**flags, "profile": second_pool}
    config = _Loader(flags, environ=environ, cwd=cwd, home=home, own_pool=bool(second_pool)).load()
    if second_pool and not config.endpoints:
        where = config.config_file or "the configuration file"
        raise ConfigError(f"{where}: profile {second_pool!r} sets no endpoints")
    return config


def load_profile_names(flags: Mapping[str, object], *, environ: Mapping[str, str], cwd: str, home: str) -> list[str]:
    """Return the names of the configuration file's profiles; errors as load_config() has them."""
    return list(_Loader(flags, environ=environ, cwd=cwd, home=home).load_file().profiles)


class _Loader:
    """Builds the layers of one configuration and reads the options from them; used once."""

    def __init__(
        self, flags: Mapping[str, object], *, environ: Mapping[str, str], cwd: str, home: str, own_pool: bool = False
    ) -> None:
        self._flags = {name: value for name, value in flags.items() if value is not None}
        self._own_pool, self._environ, self._cwd, self._home = own_pool, environ, cwd, home
        self._origins: dict[str, str] = {}
        self._warnings: list[str] = []
        self._layers: list[Layer] = []
        self._env_path, self._dotenv = "", dict[str, str]()
        self._file, self._profile = ConfigFile(), ""
        self._key_source: KeySource | None = None

    def load_file(self) -> ConfigFile:
        """Read the configuration file, and what may name it."""
        self._load_env_file()
        name, named_by = self._first_name(CONFIG_FILE)
        self._origins[CONFIG_FILE.name] = named_by or DEFAULT_ORIGIN
        path = self._path(name) if named_by else next(filter(is_present, self._default_config_paths()), "")
        return files.load_config_file(path, named_by=named_by) if path else ConfigFile()

    def load(self) -> Config:
        self._file = file = self.load_file()
        self._warnings += file.warnings
        asked, asked_by = self._first_name(PROFILE)
        # What the file does not know may be meant for AWS's files alone.
        is_of_aws = bool(asked) and asked not in file.profiles and self._is_aws_profile(asked)
        self._profile = asked if is_of_aws else file.choose(asked)
        self._origins[PROFILE.name] = asked_by or (file.path if self._profile else DEFAULT_ORIGIN)
        ignores = any(
            values.get(IGNORE_ENDPOINTS, "").lower() in TRUE_WORDS for values in (self._environ, self._dotenv)
        )
        given = [
            _flag_layer(self._flags),
            _layer_of(self._environ, ENV_ORIGIN, ignores_endpoints=ignores),
            _layer_of(self._dotenv, f"{self._env_path}:", ignores_endpoints=ignores),
        ]
        own = file.profiles.get(self._profile, {})
        if self._own_pool:
            given = [_only(own, (*IDENTITY, *TRUST)), *_without(given, *IDENTITY)]
        self._layers = [*given, own, file.common]
        values = self._credentials(sign=self._get(Config.sign))
        self._watch_keys()
        self._add_aws_settings(ignores_endpoints=ignores)
        return self._settle(values)

    def _settle(self, values: dict[str, object]) -> Config:
        proxy = self._proxy()
        rest = [option for option in Config.OPTIONS if option not in CREDENTIALS]
        values.update({option.attribute: self._get(option) for option in rest})
        config = Config(**values)
        self._check_env_file(config)
        zones = sorted({endpoint.zone for endpoint in config.endpoints if endpoint.zone})
        if config.zone and config.endpoints and config.zone not in zones:
            known = f"there are: {', '.join(zones)}" if zones else "endpoints name theirs with ;zone=NAME"
            self._warnings.append(f"{self._origins['zone']}: no endpoint is in the zone {config.zone}; {known}")
        values.update(self._pem_files(config))
        values[Config.max_connections.attribute] = self._max_connections(config)
        return config.replace(
            **values,
            profile=self._profile,
            config_file=self._file.path,
            env_file=self._env_path,
            proxy=proxy,
            origins=dict(self._origins),
            warnings=tuple(self._warnings),
            unused_proxy="" if config.http_proxy else next(filter(self._environ.get, PROXY_VARIABLES), ""),
            key_source=self._key_source,
        )

    def _check_env_file(self, config: Config) -> None:
        """Refuse to send keys from elsewhere where a `.env` found in the directory points."""
        source = self._key_source
        if not self._is_env_file_found or (config.credentials is None and source is None):
            return
        is_chosen = any(self._origins[each.name].startswith(f"{self._env_path}:") for each in (CONFIG_FILE, PROFILE))
        unused = {Config.insecure.name: not config.insecure, Config.sts_endpoint.name: not self._uses_sts}
        places = [place for place in files.PLACES if not unused.get(place, False)]
        config_path = self._file.path if is_chosen else ""
        files.check_keys(self._origins, env_path=self._env_path, config_path=config_path, places=places)

    @property
    def _is_env_file_found(self) -> bool:
        """Whether there is a `.env` that the user did not name."""
        return self._origins[ENV_FILE.name] == files.FOUND_ORIGIN

    def _get(self, option: Option[T]) -> T:
        """Read an option from the first layer that has it, and note the origin."""
        setting = self._find(option)
        self._origins[option.name] = setting.origin if setting else DEFAULT_ORIGIN
        return option.read(setting) if setting else option.default

    def _find(self, option: Option[Any]) -> Setting | None:
        return next((layer[option.name] for layer in self._layers if option.name in layer), None)

    def _rank(self, option: Option[Any]) -> int:
        return next((rank for rank, layer in enumerate(self._layers) if option.name in layer), len(self._layers))

    def _first_name(self, source: SourceOption) -> tuple[str, str]:
        """Return the name of a file or profile and its origin, from flag, environment and `.env`."""
        if source.name in self._flags:
            value = self._flags[source.name]
            if not isinstance(value, str) or not value:
                raise ConfigError(f"{source.flag} needs a value")
            return value, f"flag {source.flag}"
        if self._environ.get(source.env):
            return self._environ[source.env], f"{ENV_ORIGIN} {source.env}"
        if self._dotenv.get(source.env):
            return self._dotenv[source.env], f"{self._env_path}: {source.env}"
        return "", ""

    def _path(self, text: str) -> str:
        if self._home and text.startswith("~/"):
            text = self._home + text[1:]
        return os.path.join(self._cwd, text)

    def _load_env_file(self) -> None:
        name, named_by = self._first_name(ENV_FILE)
        path = self._path(name or ".env")
        if not named_by and not is_present(path):
            self._origins[ENV_FILE.name] = DEFAULT_ORIGIN
        elif not named_by and (why := files.why_not_read(path)):
            self._origins[ENV_FILE.name] = f"not read: {why}"
            self._warnings.append(f"{path} is not read: {why}; if it is to be trusted, name it: --env-file {path}")
        else:
            self._origins[ENV_FILE.name], self._env_path = named_by or files.FOUND_ORIGIN, path
            self._dotenv, warnings = files.load_env_file(path, named_by=named_by)
            self._warnings += warnings

    def _default_config_paths(self) -> Iterator[str]:
        if self._home:
            yield os.path.join(self._home, ".s3pool", "config.yaml")
        # Source: XDG Base Directory Specification: a relative path is invalid and counts as unset.
        xdg = self._environ.get("XDG_CONFIG_HOME", "")
        if os.path.isabs(xdg):
            yield os.path.join(xdg, "s3pool", "config.yaml")
        elif self._home:
            yield os.path.join(self._home, ".config", "s3pool", "config.yaml")

    def _aws_paths(self) -> tuple[str, str]:
        """Return the paths of AWS's files of keys and of settings."""
        keys, settings = (
            self._path(self._variable(variable) or os.path.join("~", ".aws", name))
            for variable, name in AWS_FILE_VARIABLES.items()
        )
        return keys, settings

    def _variable(self, name: str) -> str:
        return self._environ.get(name) or self._dotenv.get(name) or ""

    def _is_aws_profile(self, name: str) -> bool:
        paths = self._aws_paths()
        if not any(map(is_present, paths)):
            return False
        from s3pool.config.aws_files import has_profile

        return has_profile(*paths, name)

    @property
    def _has_own_aws_profile(self) -> bool:
        """Whether AWS's files have a profile named like ours; else AWS_PROFILE counts, as in every AWS tool."""
        is_asked = PROFILE.name in self._flags or not self._variable("AWS_PROFILE")
        return bool(self._profile) and is_asked and self._is_aws_profile(self._profile)

    def _aws_files(self) -> AwsFiles:
        from s3pool.config.aws_files import AwsFiles

        named, is_own = self._variable("AWS_PROFILE"), self._has_own_aws_profile
        return AwsFiles(
            *self._aws_paths(),
            self._profile if is_own else named or "default",
            required=bool(named) and not is_own,
            # A file that was merely found may not tell where keys are, or what is run to get them.
            environ=self._environ if self._is_env_file_found else {**self._dotenv, **self._environ},
            home=self._home,
        )

    def _add_aws_settings(self, *, ignores_endpoints: bool) -> None:
        """Put what AWS's config file sets below all other layers.

        Endpoints of another profile than ours would mean another pool.
        """
        everywhere = self._find(Config.endpoints)
        if self._uses_sts and everywhere is not None and everywhere.origin.endswith(f" {ENDPOINT_VARIABLE}"):
            self._layers = [*self._layers, {Config.sts_endpoint.name: everywhere}]  # it is for every service
        needed: list[Option[Any]] = [Config.region, Config.endpoints, *((Config.sts_endpoint,) * self._uses_sts)]
        needed += [Config.response_checksum_validation, Config.request_checksum_calculation]
        if is_present(self._aws_paths()[1]) and any(self._find(option) is None for option in needed):
            ignores = ignores_endpoints or (self._own_pool and not self._has_own_aws_profile)
            self._layers = [*self._layers, self._aws_files().load_settings(ignores_endpoints=ignores)]

    @property
    def _uses_sts(self) -> bool:
        return self._key_source is not None and self._key_source.kind in KEYS_BY_STS

    def _watch_keys(self) -> None:
        """Note where keys may change, or come from; what a file that was merely found names runs no program."""
        origins = [self._origins[option.name] for option in (Config.access_key, Config.secret_key)]
        source, path = self._key_source, self._file.path
        if path and all(origin.startswith(f"{path}:") for origin in origins):
            self._key_source = KeySource("yaml", path, {"path": path, "profile": self._profile})
        elif source is not None and source.kind not in ("file", "instance"):
            self._origins.update(dict.fromkeys((Config.access_key.name, Config.secret_key.name), source.origin))
            named = [name for name in AWS_FILE_VARIABLES if self._dotenv.get(name) and not self._environ.get(name)]
            if named and self._is_env_file_found:
                raise ConfigError(
                    f"{self._env_path}: {named[0]} names a file that tells how to get keys ({source.origin}); "
                    f"if that is to be trusted, name it: --env-file {self._env_path}"
                )

    def _credentials(self, *, sign: bool) -> dict[str, object]:
        """Return the values of the key pair and the token; empty when nothing is signed."""
        if not sign:
            for option in CREDENTIALS:
                setting = self._find(option)
                self._origins[option.name] = f"{setting.origin}, not used: unsigned" if setting else DEFAULT_ORIGIN
            return {}
        if self._find(Config.access_key) is None and self._find(Config.secret_key) is None:
            found = self._aws_files().load_keys()
            # A session token from elsewhere belongs to another key.
            self._layers = [*_without(self._layers, Config.session_token), found.layer]
            self._warnings += found.warnings
            self._key_source = found.source
        access_key, secret_key = self._get(Config.access_key), self._get(Config.secret_key)
        self._check_pair(access_key, secret_key)
        if self._rank(Config.session_token) > self._rank(Config.secret_key):
            self._layers = _without(self._layers, Config.session_token)
        return {"access_key": access_key, "secret_key": secret_key, "session_token": self._get(Config.session_token)}

    def _check_pair(self, access_key: str, secret_key: str) -> None:
        if access_key and not secret_key:
            raise ConfigError(
                f"there is an access key ({self._origins['access_key']}) but no secret key: "
                "set AWS_SECRET_ACCESS_KEY or secret_key:"
            )
        if secret_key and not access_key:
            raise ConfigError(
                f"there is a secret key ({self._origins['secret_key']}) but no access key: "
                "set AWS_ACCESS_KEY_ID, access_key: or --access-key"
            )
        own = self._layers[self._rank(Config.secret_key)].get(Config.access_key.name) if secret_key else None
        if own is not None and own.value != access_key:
            self._warnings.append(
                f"the access key comes from {self._origins['access_key']} but the secret key from "
                f"{self._origins['secret_key']}, where it belongs to another access key"
            )

    def _pem_files(self, config: Config) -> Iterator[tuple[str, str]]:
        """Yield the options that name a PEM file, and the file's path."""
        if config.client_key and not config.client_cert:
            raise ConfigError(f"{self._origins['client_key']}: a private key without a certificate; add client_cert")
        is_tls = any(endpoint.scheme == "https" for endpoint in config.endpoints)
        for option, text, content, needed in (
            (Config.ca_bundle, config.ca_bundle, "certificates", is_tls and not config.insecure),
            (Config.client_cert, config.client_cert, "a certificate", is_tls),
            (Config.client_key, config.client_key, "a private key", is_tls),
        ):
            path = self._path(text) if text else ""
            if path and needed and not (os.path.isfile(path) and os.access(path, os.R_OK)):
                origin = self._origins[option.name]
                raise ConfigError(f"{origin}: cannot read {path}: it must be a PEM file of {content}")
            yield option.attribute, path

    def _max_connections(self, config: Config) -> int:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        most = UNKNOWN_FILE_LIMIT if limit == resource.RLIM_INFINITY else limit
        if config.min_connections > config.max_connections:
            raise ConfigError(
                f"{self._origins['min_connections']}: {config.min_connections} connections are more than the limit, "
                f"{config.max_connections} ({self._origins['max_connections']})"
            )
        bound = max(1, (most - RESERVED_FILES) // max(1, len(config.endpoints)))
        if config.max_connections > bound:
            self._origins[Config.max_connections.name] += f", bounded by the file limit of {most}"
        return min(config.max_connections, bound)

    def _proxy(self) -> Mapping[str, object]:
        section = self._file.proxy_section(self._profile)
        self._origins.update({f"proxy.{key}": f"{self._file.path}: proxy.{key}" for key in section})
        for values, source in ((self._environ, ENV_ORIGIN), (self._dotenv, f"{self._env_path}:")):
            if values.get(PROXY_LISTEN):
                self._origins["proxy.listen"] = f"{source} {PROXY_LISTEN}"
                return {**section, "listen": values[PROXY_LISTEN]}
        return section


def _flag_layer(flags: Mapping[str, object]) -> Layer:
    layer = {}
    for option in Config.OPTIONS:
        value = flags.get(option.dest) if option.flag else None
        # A switch that was not given may arrive as argparse's False.
        if value is not None and not (option.switch is not None and value is False):
            layer[option.name] = Setting(value if option.switch is None else option.switch, f"flag {option.flag}")
    return layer


def _layer_of(values: Mapping[str, str], source: str, *, ignores_endpoints: bool) -> Layer:
    """Return the settings of variables: of an option's names the first that is set and not empty."""
    layer = {}
    for option in Config.OPTIONS:
        names = (name for name in option.env if not (ignores_endpoints and name.startswith(ENDPOINT_VARIABLE)))
        if name := next(filter(values.get, names), ""):
            layer[option.name] = Setting(values[name], f"{source} {name}")
    return layer


def _without(layers: Sequence[Mapping[str, Setting]], *options: Option[Any]) -> list[Mapping[str, Setting]]:
    """Return layers without some options."""
    names = {option.name for option in options}
    return [{name: setting for name, setting in layer.items() if name not in names} for layer in layers]


def _only(layer: Mapping[str, Setting], options: Sequence[Option[Any]]) -> Mapping[str, Setting]:
    """Return some options of a layer."""
    names = {option.name for option in options}
    return {name: setting for name, setting in layer.items() if name in names}
