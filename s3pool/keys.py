"""Keys that end: got from files, a program, STS, SSO, a container's or an instance's service, and renewed in time.

Every failure is one CredentialsError that names the source; no message holds a secret.
"""

from __future__ import annotations

import json
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode, urlsplit

from s3pool.body import BytesBody
from s3pool.config.aws_files import read_pair
from s3pool.config.files import load_config_file
from s3pool.config.options import NO_CREDENTIALS_MESSAGE, Config
from s3pool.config.values import KeySource
from s3pool.endpoint import Credentials, Keys
from s3pool.errors import ConfigError, CredentialsError, ProtocolError, S3PoolError, describe_os_error
from s3pool.pool.connections import ConnectionSettings, make_tls_context
from s3pool.s3.documents import Element, parse, parse_error
from s3pool.s3.signing import Signer

logger = logging.getLogger(__name__)

STS_VERSION = "2011-06-15"
DEFAULT_SESSION = "s3pool"
CONTAINER_URL = "http://169.254.170.2"
# Source: AWS SDKs and Tools Reference Guide, "Container credential provider": others must be HTTPS.
CONTAINER_HOSTS = ("localhost", "127.0.0.1", "::1", "169.254.170.2", "169.254.170.23", "fd00:ec2::23")
INSTANCE_PATH = "/latest/meta-data/iam/security-credentials/"
INSTANCE_TIMEOUT_S = 1.0  # outside of a cloud nobody answers there
SERVICE_TIMEOUT_S = 10.0
PROCESS_TIMEOUT_S = 120.0  # it may wait for a person
MAX_ANSWER_BYTES = 1 << 20
SERVER_ERROR = 500
MILLISECONDS = 1000.0

LOOK_S = 5.0  # between two looks at a file
EARLY_S = 300.0  # before their end keys are renewed, by one thread while the others go on with them
EARLY_SHARE = 0.25  # of what they had to live, where that is less
LAST_S = 30.0  # before their end nobody uses them any more
LAST_SHARE = 0.05
RETRY_S = 15.0  # after a renewal that failed while the old keys still hold
FAILED_S = 2.0  # so long all threads share one failure, instead of each asking again
FORCED_S = 30.0  # between two renewals because a server refused what should hold
FILES = ("file", "yaml")


class Answer(NamedTuple):
    """What a service has answered."""

    status: int
    body: bytes


def get_keys(source: KeySource, config: Config) -> Keys:
    """Get the keys of a source.

    Raises CredentialsError: it gives none; the message says what to do. ConfigError: nothing was configured at all.
    """
    try:
        return FETCHERS[source.kind](source, config)
    except (KeyError, TypeError, ValueError, ProtocolError) as exc:
        raise _no_keys(source, f"the answer is not what was expected ({type(exc).__name__})") from exc


def _no_keys(source: KeySource, why: str) -> CredentialsError:
    return CredentialsError(f"cannot get keys by {source.origin}: {why}")


# -- what is on this machine ----------------------------------------------------------------


def _from_settings(source: KeySource, _config: Config) -> Keys:
    words = source.settings
    return Keys(Credentials(words["access_key"], words["secret_key"], words.get("session_token", "")))


def _from_file(source: KeySource, _config: Config) -> Keys:
    access_key, secret_key, token = read_pair(source)
    if not access_key or not secret_key:
        raise _no_keys(source, "the pair is not there any more")
    return Keys(Credentials(access_key, secret_key, token))


def _from_yaml(source: KeySource, _config: Config) -> Keys:
    file = load_config_file(source.settings["path"])
    layer = {**file.common, **file.profiles.get(source.settings["profile"], {})}
    options = (Config.access_key, Config.secret_key, Config.session_token)
    access_key, secret_key, token = (
        option.read(layer[option.name]) if option.name in layer else "" for option in options
    )
    if not access_key or not secret_key:
        raise _no_keys(source, "the pair is not there any more")
    return Keys(Credentials(access_key, secret_key, token))


def _from_process(source: KeySource, _config: Config) -> Keys:
    import shlex
    import subprocess

    try:
        command = shlex.split(source.settings["command"])
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=PROCESS_TIMEOUT_S, check=False
        )
    except OSError as exc:
        raise _no_keys(source, f"{command[0]}: {describe_os_error(exc)}") from exc
    except subprocess.TimeoutExpired as exc:
        raise _no_keys(source, f"{command[0]} took longer than {PROCESS_TIMEOUT_S:g} s") from exc
    if done.returncode:
        words = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
        raise _no_keys(source, ": ".join([f"{command[0]} ended with {done.returncode}", *words]))
    answer = json.loads(done.stdout)
    if answer.get("Version") != 1:
        raise _no_keys(source, f"{command[0]} must print JSON with Version 1")
    return _keys_of(answer, "SessionToken")


# -- STS ------------------------------------------------------------------------------------


def _from_role(source: KeySource, config: Config) -> Keys:
    if source.base is None:
        raise KeyError("base")
    base = get_keys(source.base, config).credentials
    return _ask_sts(source, config, {"Action": "AssumeRole"}, Signer(base, region=config.region, service="sts"))


def _from_web_identity(source: KeySource, config: Config) -> Keys:
    path = source.settings["token_file"]
    try:
        with open(path, encoding="utf-8") as stream:
            token = stream.read().strip()
    except OSError as exc:
        raise _no_keys(source, f"cannot read {path}: {describe_os_error(exc)}") from exc
    words = {"Action": "AssumeRoleWithWebIdentity", "WebIdentityToken": token}
    return _ask_sts(source, config, words, None)


def _ask_sts(source: KeySource, config: Config, words: Mapping[str, str], signer: Signer | None) -> Keys:
    """Ask the endpoints one after another; what one of them refuses, none grants."""
    settings = source.settings
    pairs = {
        **words,
        "Version": STS_VERSION,
        "RoleArn": settings.get("role_arn", ""),
        "RoleSessionName": settings.get("session_name", "") or DEFAULT_SESSION,
        "DurationSeconds": settings.get("duration", ""),
        "ExternalId": settings.get("external_id", ""),
    }
    body = urlencode({name: value for name, value in pairs.items() if value}).encode()
    urls = [endpoint.url for endpoint in config.sts_endpoint] or [f"https://sts.{config.region}.amazonaws.com"]
    problems = []
    for url in urls:
        headers = {"host": urlsplit(url).netloc, "content-type": "application/x-www-form-urlencoded; charset=utf-8"}
        if signer is not None:
            headers["x-amz-content-sha256"] = BytesBody(body).sha256()
            signer.authorize(headers, "POST", path="/", query="", now=time.time())
        try:
            answer = _call(f"{url}/", config, method="POST", headers=headers, body=body)
        except OSError as exc:
            problems.append(f"{url}: {describe_os_error(exc)}")
            continue
        if answer.status < SERVER_ERROR:
            return _keys_of_sts(source, url, answer)
        problems.append(f"{url}: status {answer.status}")
    raise _no_keys(source, f"{'; '.join(problems)}; --sts-endpoint or AWS_ENDPOINT_URL_STS says where STS is")


def _keys_of_sts(source: KeySource, url: str, answer: Answer) -> Keys:
    if answer.status != 200:
        code, detail, _, _ = parse_error(answer.body)
        raise _no_keys(source, f"{url} refused: {' '.join(filter(None, (str(answer.status), code, detail)))}")
    found = _find(parse(answer.body), "Credentials")
    return _keys_of(found.fields() if found is not None else {}, "SessionToken")


def _find(element: Element, name: str) -> Element | None:
    if element.name == name:
        return element
    return next((found for child in element.children if (found := _find(child, name)) is not None), None)


# -- services -------------------------------------------------------------------------------


def _from_sso(source: KeySource, config: Config) -> Keys:
    words = source.settings
    token = _sso_token(source, config)
    base = words["endpoint"] or f"https://portal.sso.{words['sso_region']}.amazonaws.com"
    query = urlencode({"role_name": words["sso_role_name"], "account_id": words["sso_account_id"]})
    headers = {"x-amz-sso_bearer_token": token}
    answer = _asked(source, f"{base}/federation/credentials?{query}", config, headers=headers)
    if answer.status != 200:
        raise _no_keys(source, f"{base} answered {answer.status}; run {words['login']}")
    found = json.loads(answer.body)["roleCredentials"]
    credentials = Credentials(found["accessKeyId"], found["secretAccessKey"], found["sessionToken"])
    return Keys(credentials, found["expiration"] / MILLISECONDS)


def _sso_token(source: KeySource, config: Config) -> str:
    """Return the token that a login has left, or a new one where it may be renewed."""
    words = source.settings
    try:
        with open(words["token_file"], encoding="utf-8") as stream:
            login = json.load(stream)
    except OSError as exc:
        raise _no_keys(source, f"nobody has logged in; run {words['login']}") from exc
    if _end_of(login["expiresAt"]) > time.time():
        return str(login["accessToken"])
    if not all(login.get(name) for name in ("refreshToken", "clientId", "clientSecret")):
        raise _no_keys(source, f"the login has ended; run {words['login']}")
    base = words["oidc_endpoint"] or f"https://oidc.{words['sso_region']}.amazonaws.com"
    body = json.dumps(
        {"grantType": "refresh_token", **{n: login[n] for n in ("refreshToken", "clientId", "clientSecret")}}
    )
    headers = {"content-type": "application/json"}
    answer = _asked(source, f"{base}/token", config, method="POST", headers=headers, body=body.encode())
    if answer.status != 200:
        raise _no_keys(source, f"the login has ended; run {words['login']}")
    return _keep_login(words["token_file"], login, json.loads(answer.body))


def _keep_login(path: str, login: Mapping[str, Any], renewed: Mapping[str, Any]) -> str:
    """Write the renewed token where AWS's tools look for it: the old refresh token may be good only once."""
    end = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + float(renewed["expiresIn"])))
    refresh = renewed.get("refreshToken") or login["refreshToken"]
    record = {**login, "accessToken": renewed["accessToken"], "expiresAt": end, "refreshToken": refresh}
    part = f"{path}.{os.getpid()}"
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as stream:
        json.dump(record, stream)
    os.replace(part, path)
    return str(renewed["accessToken"])


def _from_container(source: KeySource, config: Config) -> Keys:
    words = source.settings
    url = f"{CONTAINER_URL}{words['relative_uri']}" if words["relative_uri"] else words["full_uri"]
    parts = urlsplit(url)
    if parts.scheme != "https" and parts.hostname not in CONTAINER_HOSTS:
        raise _no_keys(source, f"{parts.hostname} must be asked by https")
    token = words["token"]
    if words["token_file"]:
        with open(words["token_file"], encoding="utf-8") as stream:
            token = stream.read().strip()
    answer = _asked(source, url, config, headers={"authorization": token} if token else {})
    if answer.status != 200:
        raise _no_keys(source, f"{parts.netloc} answered {answer.status}")
    return _keys_of(json.loads(answer.body), "Token")


def _from_instance(source: KeySource, config: Config) -> Keys:
    base = source.settings["endpoint"].rstrip("/")
    try:
        token = _ask_instance(
            f"{base}/latest/api/token", config, "PUT", "x-aws-ec2-metadata-token-ttl-seconds", "21600"
        )
        header = "x-aws-ec2-metadata-token"
        role = _ask_instance(f"{base}{INSTANCE_PATH}", config, "GET", header, token).strip().splitlines()[0]
        answer = _ask_instance(f"{base}{INSTANCE_PATH}{quote(role)}", config, "GET", header, token)
    except (OSError, IndexError) as exc:
        why = describe_os_error(exc) if isinstance(exc, OSError) else "it has no role"
        raise ConfigError(f"{NO_CREDENTIALS_MESSAGE} (the metadata service at {base}: {why})") from exc
    return _keys_of(json.loads(answer), "Token")


def _ask_instance(url: str, config: Config, method: str, header: str, value: str) -> str:
    answer = _call(url, config, method=method, headers={header: value}, timeout_s=INSTANCE_TIMEOUT_S)
    if answer.status != 200:
        raise OSError(f"status {answer.status}")
    return answer.body.decode()


def _keys_of(words: Mapping[str, Any], token: str) -> Keys:
    credentials = Credentials(words["AccessKeyId"], words["SecretAccessKey"], words.get(token) or "")
    end = words.get("Expiration")
    return Keys(credentials, _end_of(end) if end else None)


def _end_of(text: str) -> float:
    """Read a moment as AWS's services and tools write it: with any offset, and any digits of a second."""
    from datetime import datetime, timezone

    moment = datetime.fromisoformat(re.sub(r"[.][0-9]+", "", text).replace("UTC", "+00:00").replace("Z", "+00:00"))
    return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()


def _asked(source: KeySource, url: str, config: Config, **request: Any) -> Answer:
    try:
        return _call(url, config, **request)
    except OSError as exc:
        raise _no_keys(source, f"{urlsplit(url).netloc}: {describe_os_error(exc)}") from exc


def _call(
    url: str,
    config: Config,
    *,
    method: str = "GET",
    headers: Mapping[str, str],
    body: bytes = b"",
    timeout_s: float = SERVICE_TIMEOUT_S,
) -> Answer:
    from http.client import HTTPConnection, HTTPException, HTTPSConnection

    parts = urlsplit(url)
    connection: HTTPConnection
    if parts.scheme == "https":
        settings = ConnectionSettings(insecure=config.insecure, ca_bundle=config.ca_bundle)
        connection = HTTPSConnection(parts.netloc, timeout=timeout_s, context=make_tls_context(settings))
    else:
        connection = HTTPConnection(parts.netloc, timeout=timeout_s)
    try:
        target = f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}"
        connection.request(method, target, body=body or None, headers=dict(headers))
        response = connection.getresponse()
        return Answer(response.status, response.read(MAX_ANSWER_BYTES))
    except HTTPException as exc:
        raise OSError(f"the answer is no HTTP ({type(exc).__name__})") from exc
    finally:
        connection.close()


FETCHERS: Mapping[str, Callable[[KeySource, Config], Keys]] = {
    "keys": _from_settings,
    "file": _from_file,
    "yaml": _from_yaml,
    "process": _from_process,
    "role": _from_role,
    "web identity": _from_web_identity,
    "sso": _from_sso,
    "container": _from_container,
    "instance": _from_instance,
}


# -- renewal ------------------------------------------------------------------------------


def open_keys(config: Config, source: KeySource) -> RenewedKeys:
    """Return the keys of a configuration's source; the first use gets them where they are not there yet."""
    path = source.settings["path"] if source.kind in FILES else ""
    return RenewedKeys(lambda: get_keys(source, config), first=config.credentials, path=path, origin=source.origin)


class RenewedKeys:
    """The keys of one source; calling it returns those that are good now. Safe for many threads."""

    def __init__(self, fetch: Callable[[], Keys], *, first: Credentials | None, path: str, origin: str) -> None:
        self._fetch, self._path, self._origin = fetch, path, origin
        # Guards the renewal. Who needs no new keys does not wait for it.
        self._lock = threading.Lock()
        self._keys = Keys(first) if first is not None else None
        self._next_look = time.time() + LOOK_S if first is not None else 0.0
        self._last_use = float("inf")  # of the keys that are held
        self._mark: object = None  # of the file, as it was read
        self._changed_at = float("-inf")  # by the clock of attempts
        self._forced_at = float("-inf")
        self._failure: tuple[float, S3PoolError] | None = None

    def __call__(self) -> Credentials:
        """Return the keys to sign with, got anew where it is time.

        Raises CredentialsError, ConfigError: there are none that are good.
        """
        keys = self._keys
        now = time.time()
        if keys is not None and now < self._next_look:
            return keys.credentials
        is_good = keys is not None and now < self._last_use
        if not self._lock.acquire(blocking=not is_good):
            assert keys is not None
            return keys.credentials
        try:
            if self._keys is None or (self._keys is keys and time.time() >= self._next_look):
                return self._renew().credentials
            return self._keys.credentials
        finally:
            self._lock.release()

    def replaced(self, since: float, is_sure: bool) -> bool:
        """Return whether there are other keys than those that were refused; ``since`` is monotonic time.

        Files are looked at. Others are asked only when ``is_sure`` that the keys, not their rights, were refused.
        """
        with self._lock:
            if self._changed_at > since:
                return True
            now = time.monotonic()
            if not self._path and (not is_sure or now < self._forced_at + FORCED_S):
                return False
            self._forced_at = now
            before = self._keys
            try:
                self._renew(is_forced=True)
            except S3PoolError as exc:
                logger.warning("%s", exc)
            return self._keys is not None and before is not None and self._keys.credentials != before.credentials

    def _renew(self, *, is_forced: bool = False) -> Keys:
        """Get and return the keys, with the lock held; a failure counts where the old ones are no good any more."""
        now = time.time()
        if self._path and (mark := _mark(self._path)) == self._mark and self._keys is not None:
            self._next_look = now + LOOK_S
            return self._keys
        if self._failure is not None and now < self._failure[0] + FAILED_S and not is_forced:
            raise self._failure[1]
        try:
            keys = self._fetch()
            if keys.expires is not None and keys.expires <= now:
                raise CredentialsError(
                    f"the keys that {self._origin} gives have ended already; check this machine's clock"
                )
        except S3PoolError as exc:
            if self._keys is None or now >= self._last_use:
                self._failure = (now, exc)
                raise
            logger.warning("%s; the keys that are there are used on", exc)
            self._next_look = now + (LOOK_S if self._path else min(RETRY_S, max(self._last_use - now, 0.0)))
            return self._keys
        if self._path:
            self._mark = mark
        return self._take(keys, now)

    def _take(self, keys: Keys, now: float) -> Keys:
        if self._keys is None or self._keys.credentials != keys.credentials:
            self._changed_at = time.monotonic()
        else:
            keys = keys._replace(credentials=self._keys.credentials)  # what signs remembers them by identity
        life_s = float("inf") if keys.expires is None else keys.expires - now
        self._last_use = now + life_s - min(LAST_S, LAST_SHARE * life_s)
        self._next_look = now + LOOK_S if self._path else now + life_s - min(EARLY_S, EARLY_SHARE * life_s)
        self._keys = keys
        self._failure = None
        return keys


def _mark(path: str) -> object:
    try:
        facts = os.stat(path)
    except OSError:
        return None
    return facts.st_mtime_ns, facts.st_ino, facts.st_size
