"""Settle the configuration: flags, environment, `.env`, YAML, AWS's files, defaults.

``load_config`` gives a frozen Config that knows where each value came from. The sources are
layers of raw settings; the first layer that has an option wins, and only then is it read.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

from s3pool import config_options as options
from s3pool.config_options import OPTIONS, Option, Setting
from s3pool.config_sources import AwsFiles, EnvFile, has_section, is_present, layer_from_environ, load_env_file
from s3pool.config_trust import FOUND_ORIGIN, PLACES, check_keys, why_not_read
from s3pool.config_values import DEFAULT_ORIGIN
from s3pool.config_values import Config as Config
from s3pool.config_values import effective as effective
from s3pool.config_yaml import ConfigFile, load_config_file
from s3pool.errors import ConfigError
from s3pool.model import Credentials

T = TypeVar("T")
Layer = Mapping[str, Setting]

ENV_ORIGIN = "environment"
RESERVED_FILES = 64  # descriptors kept from the connections: standard streams, files, logs
UNKNOWN_FILE_LIMIT = 1024  # what POSIX systems give when they claim to have no limit
# Which pool it is, and who one is there; what other places say of it is meant for another pool.
IDENTITY_OPTIONS = (
    "endpoints",
    "access_key",
    "secret_key",
    "session_token",
    "sign",
    "region",
    "bucket",
    "addressing",
    "sticky",
)
POOL_OPTIONS = (
    *IDENTITY_OPTIONS,
    "insecure",
    "ca_bundle",
    "client_cert",
    "client_key",
)  # how it is trusted, where it says that itself
PROXY_LISTEN = "PROXY_LISTEN"  # the first s3pool's variable; a flag of the proxy stands over it


def load_config(flags: Mapping[str, object], *, environ: Mapping[str, str], cwd: str, home: str) -> Config:
    """Settle the configuration from every source.

    ``flags`` holds what the user gave, by the flags' names with underscores; None is absent.
    Nothing is asked of the network, and missing endpoints or keys are no error yet.

    Raises:
        ConfigError: a file or a value is wrong; the message names it.
    """
    return _Loader(flags, environ=environ, cwd=cwd, home=home).load()


def load_profile(
    profile: str, flags: Mapping[str, object], *, environ: Mapping[str, str], cwd: str, home: str
) -> Config:
    """Settle the configuration of a second pool, which only a profile of the file describes.

    Flags and environment speak of the first one: of this pool's endpoints, keys and region
    they say nothing. Timeouts, limits and the like are theirs as ever.

    Raises:
        ConfigError: there is no such profile, it names no endpoint, or a value is wrong.
    """
    loader = _Loader({**flags, "profile": profile}, environ=environ, cwd=cwd, home=home, own_pool=True)
    config = loader.load()
    if not config.endpoints:
        raise ConfigError(f"{config.config_file or 'the configuration file'}: profile {profile!r} sets no endpoints")
    return config


class _Loader:
    """The layers, while they are put together; used once."""

    def __init__(
        self,
        flags: Mapping[str, object],
        *,
        environ: Mapping[str, str],
        cwd: str,
        home: str,
        own_pool: bool = False,
    ) -> None:
        self._flags = {name: value for name, value in flags.items() if value is not None}
        self._own_pool = own_pool
        self._environ = environ
        self._cwd = cwd
        self._home = home
        self._origins: dict[str, str] = {}
        self._warnings: list[str] = []
        self._layers: list[Layer] = []
        self._env_path = ""

    def load(self) -> Config:
        env_path, env_file = self._load_env_file()
        self._env_path = env_path
        dotenv = env_file.values
        self._warnings += env_file.warnings
        asked, asked_by = self._first_name("profile", "S3POOL_PROFILE", dotenv)
        file = self._load_config_file(dotenv)
        self._warnings += file.warnings
        profile = self._choose_profile(file, asked, dotenv)
        self._origins["profile"] = asked_by or (file.path if profile else DEFAULT_ORIGIN)
        given = [
            _flag_layer(self._flags),
            layer_from_environ(OPTIONS, self._environ, source=ENV_ORIGIN),
            layer_from_environ(OPTIONS, dotenv, source=f"{env_path}:"),
        ]
        own = file.profiles.get(profile, {})
        if self._own_pool:
            given = [_only(own, POOL_OPTIONS), *(_without(given, *IDENTITY_OPTIONS))]
        self._layers = [*given, own, file.common]
        aws = self._aws_files(dotenv, profile=profile)
        return self._settle(file, aws, env_path=env_path, profile=profile, proxy=self._proxy(file, profile, dotenv))

    def _settle(
        self, file: ConfigFile, aws: AwsFiles, *, env_path: str, profile: str, proxy: Mapping[str, object]
    ) -> Config:
        sign = self._get(options.SIGN)
        credentials = self._credentials(aws, sign=sign)
        endpoints = self._get(options.ENDPOINTS)
        insecure = self._get(options.INSECURE)
        is_tls = any(endpoint.scheme == "https" for endpoint in endpoints)
        self._check_env_file(file, credentials, insecure=insecure)
        if self._get(options.CLIENT_KEY) and not self._get(options.CLIENT_CERT):
            raise ConfigError(f"{self._origins['client_key']}: a private key without a certificate; add client_cert")
        return Config(
            endpoints=endpoints,
            credentials=credentials,
            sign=sign,
            region=self._region(aws),
            bucket=self._get(options.BUCKET),
            insecure=insecure,
            ca_bundle=self._pem_file(options.CA_BUNDLE, "certificates", needed=is_tls and not insecure),
            client_cert=self._pem_file(options.CLIENT_CERT, "a certificate", needed=is_tls),
            client_key=self._pem_file(options.CLIENT_KEY, "a private key", needed=is_tls),
            addressing=self._get(options.ADDRESSING_STYLE),
            strategy=self._get(options.STRATEGY),
            connect_timeout_s=self._get(options.CONNECT_TIMEOUT),
            read_timeout_s=self._get(options.READ_TIMEOUT),
            retries=self._get(options.RETRIES),
            health_interval_s=self._get(options.HEALTH_INTERVAL),
            max_connections=self._max_connections(len(endpoints)),
            max_idle_s=self._get(options.MAX_IDLE_TIME),
            workers=self._get(options.WORKERS),
            bwlimit=self._get(options.BWLIMIT),
            log_level=self._get(options.LOG_LEVEL),
            sticky=self._get(options.STICKY_BY),
            profile=profile,
            config_file=file.path,
            env_file=env_path,
            proxy=proxy,
            origins=dict(self._origins),
            warnings=tuple(self._warnings),
        )

    def _check_env_file(self, file: ConfigFile, credentials: Credentials | None, *, insecure: bool) -> None:
        """Keep keys from where a `.env` that nobody named would send them."""
        if self._origins["env_file"] != FOUND_ORIGIN or credentials is None:
            return
        self._get(options.CA_BUNDLE)
        is_chosen = any(self._origins[name].startswith(f"{self._env_path}:") for name in ("config", "profile"))
        places = [place for place in PLACES if insecure or place != options.INSECURE.name]
        check_keys(self._origins, env_path=self._env_path, config_path=file.path if is_chosen else "", places=places)

    def _get(self, option: Option[T]) -> T:
        """Read an option from the first layer that has it, and note the origin."""
        setting = self._find(option.name)
        self._origins[option.name] = setting.origin if setting else DEFAULT_ORIGIN
        return option.read(setting) if setting else option.default

    def _find(self, name: str) -> Setting | None:
        return next((layer[name] for layer in self._layers if name in layer), None)

    def _rank(self, name: str) -> int:
        return next((rank for rank, layer in enumerate(self._layers) if name in layer), len(self._layers))

    def _first_name(self, flag: str, variable: str, dotenv: Mapping[str, str]) -> tuple[str, str]:
        """Give a file's or profile's name and who gave it, from flag, environment and `.env`."""
        if flag in self._flags:
            return _flag_text(flag, self._flags[flag]), f"flag --{flag.replace('_', '-')}"
        if self._environ.get(variable):
            return self._environ[variable], f"{ENV_ORIGIN} {variable}"
        if dotenv.get(variable):
            return dotenv[variable], f"{self._env_path}: {variable}"
        return "", ""

    def _path(self, text: str) -> str:
        if self._home and text.startswith("~/"):
            text = self._home + text[1:]
        return os.path.join(self._cwd, text)

    def _load_env_file(self) -> tuple[str, EnvFile]:
        name, named_by = self._first_name("env_file", "S3POOL_ENV_FILE", {})
        path = self._path(name or ".env")
        if not named_by and not is_present(path):
            self._origins["env_file"] = DEFAULT_ORIGIN
            return "", EnvFile({})
        if not named_by and (why := why_not_read(path)):
            self._origins["env_file"] = f"not read: {why}"
            warning = f"{path} is not read: {why}; if it is to be trusted, name it: --env-file {path}"
            return "", EnvFile({}, (warning,))
        self._origins["env_file"] = named_by or FOUND_ORIGIN
        return path, load_env_file(path, named_by=named_by)

    def _load_config_file(self, dotenv: Mapping[str, str]) -> ConfigFile:
        name, named_by = self._first_name("config", "S3POOL_CONFIG", dotenv)
        self._origins["config"] = named_by or DEFAULT_ORIGIN
        if named_by:
            return load_config_file(self._path(name), named_by=named_by)
        path = next((path for path in self._default_config_paths() if is_present(path)), "")
        return load_config_file(path) if path else ConfigFile()

    def _default_config_paths(self) -> Iterator[str]:
        if self._home:
            yield os.path.join(self._home, ".s3pool", "config.yaml")
        # The XDG rule: a relative directory there is not valid and counts as unset.
        xdg = self._environ.get("XDG_CONFIG_HOME", "")
        if os.path.isabs(xdg):
            yield os.path.join(xdg, "s3pool", "config.yaml")
        elif self._home:
            yield os.path.join(self._home, ".config", "s3pool", "config.yaml")

    def _choose_profile(self, file: ConfigFile, asked: str, dotenv: Mapping[str, str]) -> str:
        # Without any profile of ours the name may be meant for AWS's files alone.
        if asked and not file.profiles and self._is_aws_profile(asked, dotenv):
            return asked
        return file.choose(asked)

    def _aws_path(self, variable: str, name: str, dotenv: Mapping[str, str]) -> str:
        text = self._environ.get(variable) or dotenv.get(variable) or os.path.join("~", ".aws", name)
        return self._path(text)

    def _is_aws_profile(self, name: str, dotenv: Mapping[str, str]) -> bool:
        return has_section(self._aws_path("AWS_SHARED_CREDENTIALS_FILE", "credentials", dotenv), name)

    def _aws_files(self, dotenv: Mapping[str, str], *, profile: str) -> AwsFiles:
        credentials = self._aws_path("AWS_SHARED_CREDENTIALS_FILE", "credentials", dotenv)
        config = self._aws_path("AWS_CONFIG_FILE", "config", dotenv)
        named = self._environ.get("AWS_PROFILE") or dotenv.get("AWS_PROFILE") or ""
        # Most files have no such twin of our profile; then AWS_PROFILE counts, as everywhere.
        if profile and ("profile" in self._flags or not named) and has_section(credentials, profile):
            return AwsFiles(credentials, config, profile, required=False)
        return AwsFiles(credentials, config, named or "default", required=bool(named))

    def _credentials(self, aws: AwsFiles, *, sign: bool) -> Credentials | None:
        if not sign:
            self._note_unused_keys()
            return None
        if self._find("access_key") is None and self._find("secret_key") is None:
            layer, warnings = aws.load_keys()
            # It replaces all: a session token from elsewhere belongs to another key.
            self._layers = [*_without(self._layers, "session_token"), layer]
            self._warnings += warnings
        access_key, secret_key = self._get(options.ACCESS_KEY), self._get(options.SECRET_KEY)
        self._check_pair(access_key, secret_key)
        if self._rank("session_token") > self._rank("secret_key"):
            self._layers = _without(self._layers, "session_token")
        token = self._get(options.SESSION_TOKEN)
        return Credentials(access_key, secret_key, token) if access_key else None

    def _note_unused_keys(self) -> None:
        for option in (options.ACCESS_KEY, options.SECRET_KEY, options.SESSION_TOKEN):
            setting = self._find(option.name)
            self._origins[option.name] = f"{setting.origin}, not used: unsigned" if setting else DEFAULT_ORIGIN

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
        own = self._layers[self._rank("secret_key")].get("access_key") if secret_key else None
        if own is not None and own.value != access_key:
            self._warnings.append(
                f"the access key comes from {self._origins['access_key']} but the secret key from "
                f"{self._origins['secret_key']}, where it belongs to another access key"
            )

    def _region(self, aws: AwsFiles) -> str:
        if self._find("region") is None:
            setting = aws.load_region()
            self._layers = [*self._layers, {"region": setting}] if setting else self._layers
        return self._get(options.REGION)

    def _pem_file(self, option: options.Option[str], content: str, *, needed: bool) -> str:
        text = self._get(option)
        if not text:
            return ""
        path = self._path(text)
        if needed and not (os.path.isfile(path) and os.access(path, os.R_OK)):
            origin = self._origins[option.name]
            raise ConfigError(f"{origin}: cannot read {path}: it must be a PEM file of {content}")
        return path

    def _max_connections(self, endpoint_count: int) -> int:
        wanted = self._get(options.POOL_SIZE)
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        files = UNKNOWN_FILE_LIMIT if limit == resource.RLIM_INFINITY else limit
        bound = max(1, (files - RESERVED_FILES) // max(1, endpoint_count))
        if wanted > bound:
            self._origins[options.POOL_SIZE.name] += f", bounded by the file limit of {files}"
        return min(wanted, bound)

    def _proxy(self, file: ConfigFile, profile: str, dotenv: Mapping[str, str]) -> Mapping[str, object]:
        section = file.proxy_section(profile)
        self._origins.update({f"proxy.{key}": f"{file.path}: proxy.{key}" for key in section})
        for values, source in ((self._environ, ENV_ORIGIN), (dotenv, f"{self._env_path}:")):
            if values.get(PROXY_LISTEN):
                self._origins["proxy.listen"] = f"{source} {PROXY_LISTEN}"
                return {**section, "listen": values[PROXY_LISTEN]}
        return section


def _flag_layer(flags: Mapping[str, object]) -> Layer:
    layer = {}
    for option in OPTIONS:
        value = flags.get(option.flag) if option.flag else None
        # A switch that was not given may arrive as argparse's False.
        if value is not None and not (option.switch is not None and value is False):
            layer[option.name] = Setting(value if option.switch is None else option.switch, f"flag {option.flag_text}")
    return layer


def _flag_text(flag: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ConfigError(f"--{flag.replace('_', '-')} needs a value")
    return value


def _without(layers: Sequence[Layer], *names: str) -> list[Layer]:
    return [{key: setting for key, setting in layer.items() if key not in names} for layer in layers]


def _only(layer: Layer, names: Sequence[str]) -> Layer:
    return {key: setting for key, setting in layer.items() if key in names}
