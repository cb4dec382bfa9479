"""Read AWS's shared files as AWS's own tools do: settings of a profile, and how it comes to its keys.

Nothing is asked of the network here, and no program is run: the result is a description, a ``KeySource``.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from s3pool.config.files import is_present, read_source
from s3pool.config.options import Setting
from s3pool.config.values import TRUE_WORDS, KeySource
from s3pool.errors import ConfigError

AWS_KEYS = {
    "access_key": "aws_access_key_id",
    "secret_key": "aws_secret_access_key",
    "session_token": "aws_session_token",
}
TOKEN_FILE, ROLE = "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN"
SESSION_NAME = "AWS_ROLE_SESSION_NAME"
CONTAINER = {
    "relative_uri": "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "full_uri": "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "token": "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    "token_file": "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
}
INSTANCE_URL = "http://169.254.169.254"
PLAIN_WORDS = ("region", "ca_bundle", "response_checksum_validation", "request_checksum_calculation")
UNSUPPORTED = {
    "mfa_serial": "a code that a person types (mfa_serial); get keys with aws sts get-session-token",
    "login_session": "a login by the browser (login_session); use aws configure export-credentials "
    "as its credential_process",
}
Sections = Mapping[str, Mapping[str, str]]


class FoundKeys(NamedTuple):
    """The settings of a key pair, if there is one; where the keys come from; warnings."""

    layer: Mapping[str, Setting]
    source: KeySource | None
    warnings: tuple[str, ...] = ()


class AwsFiles:
    """AWS's shared files and the profile to read; ``required`` when the user named it.

    ``environ`` holds the variables that may tell where keys are: not those of a file that was merely found.
    """

    def __init__(
        self,
        credentials_path: str,
        config_path: str,
        profile: str,
        *,
        required: bool,
        environ: Mapping[str, str],
        home: str,
    ) -> None:
        self._credentials_path, self._config_path = credentials_path, config_path
        self._profile, self._required = profile, required
        self._environ, self._home = environ, home

    def load_keys(self) -> FoundKeys:
        """Return the keys of the profile, or what tells where to get them."""
        found = {path: section for path, _, section in self._sections(self._profile)}
        if self._required and not found:
            raise ConfigError(f"AWS_PROFILE: there is no profile {self._profile!r} in {self._credentials_path}")
        source = self._source_of(self._profile) or self._container() or self._instance()
        if source is None or source.kind != "file":
            return FoundKeys({}, source)
        path = source.settings["path"]
        layer = {
            option: Setting(found[path][name], source.origin)
            for option, name in AWS_KEYS.items()
            if found[path].get(name)
        }
        return FoundKeys(layer, source, read_source(path).secrecy_warnings())

    def load_settings(self, *, ignores_endpoints: bool) -> dict[str, Setting]:
        """Return what AWS's config file sets for the profile: plain words, and endpoints for S3 and STS."""
        sections = read_ini(self._config_path)
        name = _config_section(self._profile)
        profile = sections.get(name, {})
        origin = f"{self._config_path} [{name}]"
        layer = {key: Setting(profile[key], origin) for key in PLAIN_WORDS if profile.get(key)}
        if ignores_endpoints or profile.get("ignore_configured_endpoint_urls", "").lower() in TRUE_WORDS:
            return layer
        services = profile.get("services", "")
        if services and f"services {services}" not in sections:
            raise ConfigError(f"{origin}: there is no section [services {services}]")
        for option, service in (("endpoints", "s3"), ("sts_endpoint", "sts")):
            for where, words in ((f"services {services}", sections.get(f"services {services}", {})), (name, profile)):
                if url := _nested(words.get(service, "")).get("endpoint_url"):
                    layer.setdefault(option, Setting(url, f"{self._config_path} [{where}] {service}"))
            if profile.get("endpoint_url"):
                layer.setdefault(option, Setting(profile["endpoint_url"], origin))
        return layer

    def _sections(self, profile: str) -> Iterator[tuple[str, str, Mapping[str, str]]]:
        for path, name in ((self._credentials_path, profile), (self._config_path, _config_section(profile))):
            sections = read_ini(path)
            if name in sections:
                yield path, f"{path} [{name}]", sections[name]

    def _source_of(self, profile: str, asked_by: tuple[str, ...] = ()) -> KeySource | None:
        """Return the source of a profile's keys, in the order of AWS's own tools; None for no word of any."""
        files = list(self._sections(profile))
        words = {name: value for _, _, section in reversed(files) for name, value in section.items()}
        origin = files[-1][1] if files else ""
        if words.get("role_arn") and not words.get("web_identity_token_file") and profile not in asked_by:
            return self._role(words, profile, origin=origin, asked_by=asked_by)
        if not asked_by and self._environ.get(TOKEN_FILE):
            settings = {"token_file": self._environ[TOKEN_FILE], "role_arn": self._environ.get(ROLE, "")}
            settings["session_name"] = self._environ.get(SESSION_NAME, "")
            return KeySource("web identity", f"environment {TOKEN_FILE}", settings)
        if words.get("web_identity_token_file"):
            settings = {"token_file": words["web_identity_token_file"], **_role_settings(words)}
            return KeySource("web identity", f"{origin} web_identity_token_file", settings)
        if words.get("sso_session") or words.get("sso_start_url"):
            return self._sso(words, origin)
        keys = _first_keys(files)
        if keys is None:
            _check_supported(words, origin)
        return keys

    def _role(self, words: Mapping[str, str], profile: str, *, origin: str, asked_by: tuple[str, ...]) -> KeySource:
        _check_supported(words, origin)
        settings = _role_settings(words)
        parent, provider = words.get("source_profile", ""), words.get("credential_source", "")
        makers = {
            "Ec2InstanceMetadata": self._instance,
            "EcsContainer": self._container,
            "Environment": self._variables,
        }
        if provider and provider not in makers:
            raise ConfigError(f"{origin}: credential_source is one of {', '.join(makers)}, not {provider!r}")
        if not parent and not provider:
            raise ConfigError(f"{origin}: role_arn needs source_profile, credential_source or web_identity_token_file")
        if parent in asked_by:
            raise ConfigError(f"{origin}: source_profile {parent} leads back to itself")
        base = self._source_of(parent, (*asked_by, profile)) if parent else makers[provider]()
        if base is None:
            raise ConfigError(f"{origin}: {f'profile {parent}' if parent else provider} has no keys for the role")
        return KeySource("role", f"{origin} role_arn", settings, base)

    def _sso(self, words: Mapping[str, str], origin: str) -> KeySource:
        session = words.get("sso_session", "")
        shared = read_ini(self._config_path).get(f"sso-session {session}", {}) if session else {}
        words = {**words, **shared}
        names = ("sso_start_url", "sso_region", "sso_account_id", "sso_role_name")
        missing = [name for name in names if not words.get(name)]
        if missing:
            where = f" and [sso-session {session}]" if session else ""
            raise ConfigError(f"{origin}{where}: {missing[0]} is missing; aws configure sso writes it")
        # Source: botocore, tokens.py: the file is named by what the token was got for.
        digest = hashlib.sha1((session or words["sso_start_url"]).encode(), usedforsecurity=False).hexdigest()
        settings = {name: words[name] for name in names}
        settings["token_file"] = os.path.join(self._home, ".aws", "sso", "cache", f"{digest}.json")
        settings["endpoint"] = self._environ.get("AWS_ENDPOINT_URL_SSO", "")
        settings["oidc_endpoint"] = self._environ.get("AWS_ENDPOINT_URL_SSO_OIDC", "")
        settings["login"] = f"aws sso login --profile {self._profile}"
        return KeySource("sso", f"{origin} {'sso_session' if session else 'sso_start_url'}", settings)

    def _variables(self) -> KeySource | None:
        keys = {option: self._environ.get(name.upper(), "") for option, name in AWS_KEYS.items()}
        return KeySource("keys", "environment AWS_ACCESS_KEY_ID", keys) if keys["access_key"] else None

    def _container(self) -> KeySource | None:
        settings = {word: self._environ.get(name, "") for word, name in CONTAINER.items()}
        name = next((CONTAINER[word] for word in ("relative_uri", "full_uri") if settings[word]), "")
        return KeySource("container", f"environment {name}", settings) if name else None

    def _instance(self) -> KeySource | None:
        if self._environ.get("AWS_EC2_METADATA_DISABLED", "").lower() in TRUE_WORDS:
            return None
        url = self._environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT") or INSTANCE_URL
        return KeySource("instance", "the instance's metadata service", {"endpoint": url})


def _role_settings(words: Mapping[str, str]) -> dict[str, str]:
    names = {"session_name": "role_session_name", "external_id": "external_id", "duration": "duration_seconds"}
    return {"role_arn": words.get("role_arn", ""), **{name: words.get(word, "") for name, word in names.items()}}


def _first_keys(files: list[tuple[str, str, Mapping[str, str]]]) -> KeySource | None:
    """Return the pair of the credentials file, else a program that prints one, else the pair of the config file."""
    processes = [
        KeySource("process", f"{origin} credential_process", {"command": words["credential_process"]})
        for _, origin, words in files
        if words.get("credential_process")
    ]
    pairs = [
        KeySource("file", origin, {"path": path, "section": origin[len(path) + 2 : -1]})
        for path, origin, words in files
        if words.get("aws_access_key_id") or words.get("aws_secret_access_key")
    ]
    if pairs and processes and files[0][1] != pairs[0].origin:
        return processes[0]
    return next(iter([*pairs, *processes]), None)


def _check_supported(words: Mapping[str, str], origin: str) -> None:
    for word, what in UNSUPPORTED.items():
        if words.get(word):
            raise ConfigError(f"{origin}: s3pool cannot use this profile: it needs {what}")


def _config_section(profile: str) -> str:
    return profile if profile == "default" else f"profile {profile}"


def _nested(text: str) -> dict[str, str]:
    """Read the lines below a name that has a section of its own, such as ``s3 =``."""
    pairs = (line.partition("=") for line in text.splitlines())
    return {name.strip(): value.strip() for name, equals, value in pairs if equals}


def has_profile(credentials_path: str, config_path: str, profile: str) -> bool:
    """Return whether one of AWS's files has a profile."""
    return profile in read_ini(credentials_path) or _config_section(profile) in read_ini(config_path)


def read_pair(source: KeySource) -> tuple[str, str, str]:
    """Read the pair and token of a ``file`` source again; "" for what is not there.

    Raises ConfigError: the file cannot be read.
    """
    words = read_ini(source.settings["path"]).get(source.settings["section"], {})
    access_key, secret_key, token = (words.get(name, "") for name in AWS_KEYS.values())
    return access_key, secret_key, token


def read_ini(path: str) -> Sections:
    """Read an INI file into maps by section; a missing file has none."""
    if not is_present(path):
        return {}
    import configparser

    parser = configparser.RawConfigParser(default_section="", strict=False)
    text = read_source(path).text
    try:
        parser.read_string(text)
    except configparser.Error as exc:
        # The exception quotes the line, which may be a secret.
        line = getattr(exc, "lineno", None) or next((number for number, _ in getattr(exc, "errors", ())), "?")
        raise ConfigError(f"{path}: line {line} cannot be read; AWS's form is [profile] and name = value") from exc
    # `aws configure` puts names with blanks into quotes.
    return {re.sub(r'"', "", name): dict(parser.items(name)) for name in parser.sections()}
