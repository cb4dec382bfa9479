"""Whether a `.env` of the working directory may be read, and which keys may meet what it says."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence

from s3pool.config_values import DEFAULT_ORIGIN
from s3pool.errors import ConfigError

ROOT = 0
FOUND_ORIGIN = "working directory"  # of a `.env` that nobody named
# What decides where requests go, and who may read them.
CONFIG = "config"
PLACES = (CONFIG, "endpoints", "insecure", "ca_bundle")
KEYS = ("access_key", "secret_key", "session_token")


def why_not_read(path: str) -> str:
    """Return why a `.env` file that nobody named is not to be trusted; "" when it is.

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
    """Return whether the caller is the only member of a group, as where each user has one."""
    import grp
    import pwd

    try:
        group, user = grp.getgrgid(gid), pwd.getpwuid(os.geteuid())
    except KeyError:
        return False
    return group.gr_gid == user.pw_gid and group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name}


def check_keys(origins: Mapping[str, str], *, env_path: str, config_path: str, places: Sequence[str]) -> None:
    """See to it that no keys from elsewhere go where a `.env` that nobody named sends them.

    ``places`` are the settings that count. ``config_path`` is the configuration file when the
    `.env` chose it, or its profile, else "": its own keys may go where it says itself.

    Raises:
        ConfigError: they would; the message names both.
    """
    for place in places:
        origin = origins.get(place, "")
        homes: tuple[str, ...] = (env_path,) if _is_from(origin, env_path) else ()
        if config_path and (_is_from(origin, config_path) or (homes and place == CONFIG)):
            homes = (config_path, env_path)
        foreign = [
            key
            for key in KEYS
            if origins.get(key, DEFAULT_ORIGIN) != DEFAULT_ORIGIN and not _is_home(origins[key], homes)
        ]
        if homes and foreign:
            raise ConfigError(
                f"{origin} decides on {place}, but {foreign[0]} is of another source ({origins[foreign[0]]}): keys go "
                f"only where their own source sends them; if that file is to be trusted, name it: --env-file {env_path}"
            )


def _is_home(origin: str, homes: Sequence[str]) -> bool:
    return any(_is_from(origin, path) for path in homes)


def _is_from(origin: str, path: str) -> bool:
    return origin.startswith(f"{path}:")
