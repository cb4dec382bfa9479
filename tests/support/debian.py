"""Build a Debian package from a directory of Python packages: ``python -m tests.support.debian TREE DIST``.

Debian's dpkg-deb makes it. The packages that s3pool needs lie beside it in /usr/lib/s3pool, because a
stable Debian has older ones; nothing of the system's Python is replaced.
"""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from s3pool import __version__
from tests.support.run_cli import ROOT

LIBRARY = "usr/lib/s3pool"
COMPLETIONS = {
    "bash": "usr/share/bash-completion/completions/s3pool",
    "zsh": "usr/share/zsh/vendor-completions/_s3pool",
    "fish": "usr/share/fish/vendor_completions.d/s3pool.fish",
}
LAUNCHER = f"""#!/usr/bin/python3 -I
import sys

sys.path.insert(0, "/{LIBRARY}")
from s3pool.__main__ import main

sys.exit(main())
"""
CONTROL = """Package: s3pool
Version: {version}
Architecture: all
Maintainer: The s3pool maintainers <s3pool@localhost>
Installed-Size: {size}
Depends: python3 (>= 3.10)
Section: net
Priority: optional
Description: fast S3 client and proxy for storage that is a cluster of nodes
 s3pool spreads its requests over all nodes of a pool, watches their health,
 and finishes a job elsewhere when a node is slow, silent or dead. It is a
 command line and a proxy for programs that know a single endpoint.
"""
AFTER = f"#!/bin/sh\nset -e\npython3 -m compileall -q /{LIBRARY} || true\n"
BEFORE = f"#!/bin/sh\nset -e\nfind /{LIBRARY} -name __pycache__ -type d -prune -exec rm -rf {{}} +\n"


def build(tree: Path, dist: Path) -> Path:
    """Return the package that dpkg-deb made of a tree of Python packages."""
    dist.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "root"
        shutil.copytree(tree, root / LIBRARY, ignore=shutil.ignore_patterns("__pycache__"))
        write(root / "usr/bin/s3pool", LAUNCHER, mode=0o755)
        for page in (ROOT / "man").glob("*.[158]"):
            packed = gzip.compress(page.read_bytes(), mtime=0)
            write(root / f"usr/share/man/man{page.name[-1]}/{page.name}.gz", packed)
        for shell, path in COMPLETIONS.items():
            write(root / path, completion(tree, shell))
        write(root / "usr/share/doc/s3pool/copyright", (ROOT / "LICENSE").read_text())
        size = sum(path.stat().st_size for path in root.rglob("*") if path.is_file()) // 1024
        write(root / "DEBIAN/control", CONTROL.format(version=__version__, size=size))
        write(root / "DEBIAN/postinst", AFTER, mode=0o755)
        write(root / "DEBIAN/prerm", BEFORE, mode=0o755)
        package = dist / f"s3pool_{__version__}_all.deb"
        command = ["dpkg-deb", "--root-owner-group", "--build", root, package]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return package


def completion(tree: Path, shell: str) -> bytes:
    """Return the script that completes s3pool in a shell."""
    environ = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "s3pool", "completion", shell]
    return subprocess.run(command, env=environ, check=True, capture_output=True).stdout


def write(path: Path, content: str | bytes, *, mode: int = 0o644) -> None:
    """Write a file below directories that may not exist yet."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    path.chmod(mode)


if __name__ == "__main__":
    print(build(Path(sys.argv[1]), Path(sys.argv[2])))
