"""What a command works with: configuration, sessions, output; each opened on first use."""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any, TypeVar

from s3pool.cli.output import Output, combined, exit_code_for, is_terminal
from s3pool.config.options import SOURCES, Config
from s3pool.errors import (
    ConfigError,
    LocalFileError,
    NotFoundError,
    RefusedError,
    S3PoolError,
    UsageError,
    is_pool_dead,
)
from s3pool.location import LocalPath, Location, S3Path, is_s3_text, parse, parse_s3, rooted
from s3pool.units import parse_time_or_age

if TYPE_CHECKING:
    from s3pool.cli.progress import Part
    from s3pool.pool.node import EndpointStats
    from s3pool.s3.client import S3Client
    from s3pool.session import Session

_T = TypeVar("_T")
CLOCKS_AGREE_S = 2.0  # a Date header is a whole second, and was on its way
NODES_ASKED_FOR_THE_TIME = 5
MESSAGE_DIGITS = 16  # of the hash by which a message is remembered
MOST_MESSAGES = 1000  # then the file begins anew
HEADER_FLAGS = ("header", "request_payer", "sse_c", "sse_c_source")  # see headers_of in cli/header_flags
ONLY_S3 = ("path", "paths", "buckets", "words")  # the namespace's names of operands
LOCAL_TOO = ("source", "sources", "first", "target", "second")
TARGETS = ("target", "second")
NAMED = r"([^/.=:\-~][^/=:]*)(/|$)"  # a path that may begin with the name of a profile
USUAL = ""  # the pool of s3/...


class Context:
    """One run of one command.

    ``words`` are those of the command line; ``part`` is there in a process that does one shard for
    another one. ``on_config`` is called once with the loaded configuration, before anything uses it.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        out: Output,
        *,
        environ: Mapping[str, str],
        words: Sequence[str] = (),
        part: Part | None = None,
        on_config: Callable[[Config], None] | None = None,
    ) -> None:
        self.args, self.out, self.environ, self.words, self.part = args, out, environ, words, part
        self._stats_of_parts: list[EndpointStats] = []
        self._on_config = on_config
        self._config: Config | None = None
        self._session: Session | None = None
        self._source: Session | None = None

    @property
    def config(self) -> Config:
        """Return the configuration in effect."""
        if self._config is None:
            from s3pool.config.files import FOUND_ORIGIN

            self._config = self.reload_config()
            if self._on_config is not None:
                self._on_config(self._config)
            if self.part is not None:
                self._config = _share_of(self._config, self.part.shard.count)
                return self._config  # what there is to say of it, the other process says
            for warning in self._config.warnings:
                self.out.warn(warning)
            if self._config.origins["env_file"] == FOUND_ORIGIN:
                self._tell_env_file(self._config)
        return self._config

    def _tell_env_file(self, config: Config) -> None:
        """Note, the first time, that a `.env` found in the directory sets the endpoints."""
        origin = config.origins["endpoints"]
        if not origin.startswith(f"{config.env_file}:"):
            return
        from s3pool.transfer.resume import state_directory

        directory = state_directory(self.environ)
        urls = ",".join(endpoint.url for endpoint in config.endpoints)
        message = f"the endpoints {urls} come from {origin}"
        if _is_new(message, os.path.join(directory, "told")):
            self.out.remark(message)

    def reload_config(self) -> Config:
        """Read the configuration again, for a command that goes on; open sessions keep the old one."""
        return self._read_config(getattr(self.args, "target_profile", ""))

    def _read_config(self, second_pool: str = "") -> Config:
        from s3pool.config.load import load_config

        home = os.path.expanduser("~")
        return load_config(
            self.flags, environ=self.environ, cwd=working_directory(), home=home, second_pool=second_pool
        )

    @property
    def flags(self) -> dict[str, object]:
        """Return the options given on the command line."""
        given = vars(self.args)
        names = [*(option.dest for option in Config.OPTIONS if option.flag), *(source.name for source in SOURCES)]
        return {name: given[name] for name in names if name in given}

    @property
    def session(self) -> Session:
        """Return the session of the pool; opening it starts no thread."""
        if self._session is None:
            self._session = self._open(self.config)
        return self._session

    def sign_if_possible(self) -> bool:
        """Go on without signatures where no keys are configured; return whether requests are signed."""
        try:
            self.config.require_credentials(is_set=True)
        except ConfigError:
            self._config = self.config.replace(sign=False)
        return self.config.sign

    @property
    def opened_sessions(self) -> tuple[Session, ...]:
        """Return the sessions that the command opened: none, one, or those of two pools."""
        return tuple(session for session in (self._session, self._source) if session is not None)

    @property
    def source_session(self) -> Session:
        """Return the session that sources are read from: of --source-profile's pool, or with a key of their own."""
        if not self.has_two_pools and not getattr(self.args, "sse_c_source", ""):
            return self.session
        profile = getattr(self.args, "source_profile", "")
        if self._source is None:
            known = self.config.warnings
            config = self._read_config(profile) if self.has_two_pools else self.config
            for warning in config.warnings if profile else ():
                if warning not in known:
                    self.out.warn(warning)
            self._source = self._open(config, is_source=True)
        return self._source

    @property
    def has_two_pools(self) -> bool:
        """Return whether sources and target are, or may be, in different pools."""
        given = vars(self.args)
        is_target_named = bool(given.get("target_profile")) and not given.get("is_one_pool")
        return bool(given.get("source_profile")) or is_target_named

    def profile_names(self) -> Collection[str]:
        """Return the names of the configuration file's profiles."""
        from s3pool.config.load import load_profile_names

        home = os.path.expanduser("~")
        return load_profile_names(self.flags, environ=self.environ, cwd=working_directory(), home=home)

    def _open(self, config: Config, *, is_source: bool = False) -> Session:
        """Open a session whose requests have the headers that flags add."""
        from s3pool.session import open_session

        session = open_session(config, trace=self.args.command)
        if any(getattr(self.args, name, None) for name in HEADER_FLAGS):
            from s3pool.cli.header_flags import headers_of

            if (headers := headers_of(self.args, config, is_source=is_source)) is not None:
                session.client.send_with(headers)
                session.signer.signed_headers |= headers.names
        return session

    def endpoint_stats(self) -> list[EndpointStats]:
        """Return what happened per endpoint of each session, with what other processes did for this one."""
        rows = [row for session in self.opened_sessions for row in session.transport.stats()]
        for other in self._stats_of_parts:
            place = next((place for place, row in enumerate(rows) if row.endpoint == other.endpoint), None)
            if place is None:
                rows.append(other)
            else:
                rows[place] = rows[place].plus(other)
        return rows

    def report_counts(self, part: Part) -> None:
        """Report what happened per endpoint and in listings to the process that started this one."""
        part.send("endpoints", [row.values for row in self.endpoint_stats()])
        lists = [session.client.lists for session in self.opened_sessions]
        part.send("lists", [[count.requests, count.names, count.needed] for count in lists])

    def add_counts(self, endpoints: Iterable[Sequence[Any]], lists: Iterable[Sequence[int]]) -> None:
        """Add what other processes have reported."""
        from s3pool.pool.node import EndpointStats

        self._stats_of_parts += (EndpointStats(*values) for values in endpoints)
        for requests, names, needed in lists:
            self.client.lists.add(requests, names, needed)

    @property
    def client(self) -> S3Client:
        """Return the S3 client of the session."""
        return self.session.client

    def close(self) -> None:
        """Close the session, if there is one."""
        for session in self.opened_sessions:
            session.close()

    def location(self, text: str, *, is_source: bool = False) -> Location:
        """Parse an operand that may be local or in S3; an empty bucket becomes the default bucket.

        With ``is_source`` that is the default bucket of the pool that sources are read from.
        """
        place = parse(text, default_bucket=self._default_bucket(text, is_source=is_source))
        if isinstance(place, LocalPath) and not os.path.isabs(place.path) and not working_directory():
            raise UsageError(f"{place.text} is relative, and the working directory was removed: go to another one")
        return self._utf8(place) if isinstance(place, S3Path) else place

    def s3(self, text: str) -> S3Path:
        """Parse an operand that must be in S3."""
        return self._utf8(parse_s3(text, default_bucket=self._default_bucket(text)))

    def _utf8(self, path: S3Path) -> S3Path:
        """Refuse a key that is not UTF-8, before a server refuses it in less clear words."""
        try:
            path.key.encode("utf-8")
        except UnicodeEncodeError as exc:
            raise UsageError(f"{self.out.escape(path.text)} is not valid UTF-8; the keys of S3 are") from exc
        return path

    def s3_bucket(self, text: str) -> str:
        """Parse an operand that must be a bucket: ``s3/BUCKET``, or its bare name."""
        path = self.s3(rooted(text))
        if not path.bucket:
            raise UsageError(f"{self.out.escape(text)} names no bucket; write s3/BUCKET")
        if path.key:
            raise UsageError(f"{self.out.escape(text)} has a key; this command takes buckets: s3/{path.bucket}")
        return path.bucket

    def s3_object(self, text: str) -> S3Path:
        """Parse an operand that must name a bucket and a key."""
        path = self.s3(text)
        if not path.bucket or not path.key:
            raise UsageError(f"{self.out.escape(text)} names no object; write s3/BUCKET/KEY")
        return path

    def _default_bucket(self, text: str, *, is_source: bool = False) -> str:
        # Only an empty bucket needs the configuration: a broken file must not stop other operands.
        if not text.startswith("s3:///"):
            return ""
        return self.source_session.config.bucket if is_source else self.config.bucket

    def now(self) -> float:
        """Return the time in seconds since 1970."""
        return time.time()

    def moment(self, text: str) -> float:
        """Return the time that a date or an age names; ages count by the clock of the storage."""
        at = parse_time_or_age(text, 0.0)
        is_age = parse_time_or_age(text, 1.0) != at
        return at + self._storage_time() if is_age else at

    def _storage_time(self) -> float:
        """Return the time by the clock of the first node that sends a date, else by our clock."""
        from s3pool.pool.health import probe

        for node in self.session.nodes[:NODES_ASKED_FOR_THE_TIME]:
            offset_s = probe(node).clock_offset_s
            if offset_s is not None:
                return self.now() + (offset_s if abs(offset_s) > CLOCKS_AGREE_S else 0.0)
        return self.now()

    @property
    def dry_run(self) -> bool:
        """Return whether nothing may be changed."""
        return bool(getattr(self.args, "dry_run", False))

    @property
    def is_tty(self) -> bool:
        """Return whether a user can answer a question."""
        return is_terminal(sys.stdin) and is_terminal(sys.stderr)

    def require_consent(self, names: str, question: str, *, act: str, force: str, can_ask: bool = True) -> None:
        """Ask on the terminal; anything but yes is a no, the end of input included.

        Raises UsageError: nobody can be asked; the message says what ``force`` does. RefusedError: the answer was no.
        """
        if not (can_ask and self.is_tty):
            raise UsageError(f"{names}: nothing was {act}, for nobody can be asked; --force {force}")
        self.out.ask(f"{question} [y/N]: ")
        try:
            answer = sys.stdin.readline()
        except (OSError, ValueError):
            answer = ""
        if answer.strip().lower() not in ("y", "yes"):
            raise RefusedError(f"{names}: nothing was {act}: the answer was no")

    @property
    def stdin(self) -> IO[bytes]:
        """Return standard input as a stream of bytes. Raises LocalFileError: standard input is closed."""
        if sys.stdin is None:
            raise LocalFileError("cannot read standard input: it is closed")
        return sys.stdin.buffer

    def for_each(self, operands: Iterable[_T], act: Callable[[_T], int | None]) -> int:
        """Call ``act`` on each operand, print each failure, and return one exit code.

        An error that would hit every operand ends the command at once.
        """
        codes: list[int] = []
        for operand in operands:
            try:
                codes.append(act(operand) or 0)
            except S3PoolError as exc:
                if isinstance(exc, (ConfigError, UsageError)) or is_pool_dead(exc):
                    raise
                codes.append(self.tell_failure(exc, operand))
        return combined(codes)

    def tell_failure(self, error: S3PoolError, operand: object) -> int:
        """Print the failure of an operand, and return its exit code.

        Of a key that is not there the answer does not tell whether its bucket is, and keys below it.
        """
        if isinstance(operand, S3Path) and isinstance(error, NotFoundError) and error.code == "NoSuchKey":
            try:
                if self.client.has_keys(operand.bucket, operand.tree_prefix):
                    tree = S3Path(operand.bucket, operand.tree_prefix)
                    error.hint = f"but keys lie below it: s3pool ls {tree.text} shows them"
            except NotFoundError as exc:
                error = exc
            except S3PoolError:
                pass
        self.out.error(error, source=getattr(operand, "text", "") or str(operand))
        return exit_code_for(error)


def _is_new(message: str, path: str) -> bool:
    """Return whether a message is not yet in the file of messages, and add it; True where no file can be kept."""
    import hashlib

    line = hashlib.sha256(message.encode("utf-8", "surrogateescape")).hexdigest()[:MESSAGE_DIGITS]
    try:
        with open(path, encoding="ascii") as stream:
            known = stream.read().split()
    except (OSError, ValueError):
        known = []
    if line in known:
        return False
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        with open(path, "a" if len(known) < MOST_MESSAGES else "w", encoding="ascii") as stream:
            stream.write(f"{line}\n")
    except OSError:
        pass
    return True


def _share_of(config: Config, count: int) -> Config:
    return config.replace(
        workers=-(-config.workers // count),
        max_connections=max(1, config.max_connections // count),
        bwlimit=_divided(config.bwlimit, count),
        tpslimit=_divided(config.tpslimit, count),
    )


def _divided(limit: Any, count: int) -> Any:
    return tuple(-(-part // count) for part in limit) if isinstance(limit, tuple) else -(-limit // count)


def working_directory() -> str:
    """Return the current directory, or "" when it was removed."""
    try:
        return os.getcwd()
    except OSError:
        return ""


def choose_pools(args: argparse.Namespace, known: Callable[[], Collection[str]]) -> None:
    """Rewrite operands of profiles to ``s3/...``, and choose the command's pool, or its two, by them.

    ``berlin/BUCKET/KEY`` is in the pool of the profile berlin, where the command takes local paths only if nothing of
    that name lies in the working directory; both at once is an error. A name alone means all buckets where only S3 can
    be meant. ``s3/...`` is always the usual pool, and ``./...`` is always local. ``known`` tells the names of the
    profiles; it is asked only where an operand may begin with one.
    """
    dests = [dest for dest in (*ONLY_S3, *LOCAL_TOO) if getattr(args, dest, None)]
    if not any(not is_s3_text(text) and re.match(NAMED, text) for dest in dests for text in _texts(args, dest)):
        return
    names = known()
    pools: dict[bool, set[str]] = {False: set(), True: set()}  # of sources, and of targets
    for dest in dests if names else ():
        takes_local = dest in LOCAL_TOO and args.command != "pipe"
        found = [_read_pool(text, names, takes_local) for text in _texts(args, dest)]
        pools[dest in TARGETS].update(pool for pool, _ in found if pool is not None)
        texts = [text for _, text in found]
        setattr(args, dest, texts if isinstance(getattr(args, dest), list) else texts[0])
    if (pools[False] | pools[True]) - {USUAL}:
        _settle_pools(args, pools[False], pools[True])


def _texts(args: argparse.Namespace, dest: str) -> list[str]:
    value = getattr(args, dest)
    return value if isinstance(value, list) else [value]


def _read_pool(text: str, names: Collection[str], takes_local: bool) -> tuple[str | None, str]:
    """Return the pool of a path, None for a local one, and the path as commands read it."""
    if is_s3_text(text):
        return USUAL, text
    match = re.match(NAMED, text)
    if match is None or match[1] not in names or (takes_local and not match[2]):
        return None, text
    rest = text[match.end() :]
    if takes_local and os.path.lexists(match[1]):
        raise UsageError(
            f"{text} may be the profile {match[1]} or what is called {match[1]} here: write ./{text} for the latter, "
            f"else s3/{rest} with --profile {match[1]}"
        )
    return match[1], f"s3/{rest}"


def _settle_pools(args: argparse.Namespace, sources: set[str], targets: set[str]) -> None:
    """Note the pools for the command's Context."""
    pools = sources | targets
    if len(pools) == 1:
        args.target_profile, args.is_one_pool = pools.pop(), True
        return
    named = ", ".join(pool or "s3" for pool in sorted(pools))
    if len(sources) != 1 or len(targets) != 1 or not hasattr(args, "source_profile"):
        raise UsageError(
            f"the paths are of several pools ({named}): one command copies or compares from one to another"
        )
    if args.source_profile:
        raise UsageError(f"--source-profile and paths of several pools ({named}) exclude each other")
    args.source_profile, args.target_profile = sources.pop(), targets.pop()
