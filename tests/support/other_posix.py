"""Runs s3pool without what Linux alone has, as it would find things on another POSIX system.

``python tests/support/other_posix.py WORD...``
"""

from __future__ import annotations

import builtins
import errno
import fcntl
import os
import select
import selectors
import socket
import sys
from pathlib import Path
from typing import Any

LINUX_ALONE = {
    select: ("epoll", "EPOLLIN", "EPOLLOUT", "EPOLLERR", "EPOLLHUP", "EPOLLET", "EPOLLONESHOT", "EPOLLRDHUP"),
    os: ("splice", "posix_fallocate", "posix_fadvise", "sched_getaffinity", "copy_file_range", "O_PATH", "O_TMPFILE"),
    socket: ("TCP_QUICKACK", "SO_REUSEPORT", "TCP_USER_TIMEOUT", "MSG_ZEROCOPY", "TCP_KEEPIDLE", "SO_PEERCRED"),
    fcntl: ("F_SETPIPE_SZ", "F_GETPIPE_SZ"),
}
MORE_OF_OS = ("eventfd", "memfd_create", "getxattr", "listxattr", "setxattr", "pidfd_open", "pipe2", "accept4")
PIPE_SIZES = (1031, 1032)


def take_away() -> None:
    """Take Linux's own calls away, and the directory /proc."""
    for module, names in (*LINUX_ALONE.items(), (os, MORE_OF_OS)):
        for name in names:
            if hasattr(module, name):
                delattr(module, name)
    selectors.DefaultSelector = selectors.PollSelector  # type: ignore[misc, assignment]
    control, open_file, open_descriptor, list_names = fcntl.fcntl, builtins.open, os.open, os.listdir

    def fcntl_without_pipe_sizes(fd: Any, command: int, argument: Any = 0) -> Any:
        if command in PIPE_SIZES:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return control(fd, command, argument)

    def hides_proc(function: Any) -> Any:
        def call(path: Any, *rest: Any, **named: Any) -> Any:
            if isinstance(path, (str, bytes, os.PathLike)) and os.fsdecode(path).startswith("/proc"):
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
            return function(path, *rest, **named)

        return call

    fcntl.fcntl = fcntl_without_pipe_sizes  # type: ignore[assignment]
    builtins.open = hides_proc(open_file)
    os.open = hides_proc(open_descriptor)
    os.listdir = hides_proc(list_names)


if __name__ == "__main__":
    take_away()
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from s3pool.__main__ import main

    sys.argv[0] = "s3pool"
    sys.exit(main())
