"""Runs the command line as on a machine with so many processors; a helper's requests tell its process.

And each helper writes a line to the file that FORKS_TO names.

python tests/support/processors.py 2 cp -r directory s3/bucket
"""

import os
import sys


def _tell_process():
    from s3pool.pool import transport

    transport.DEFAULT_HEADERS["user-agent"] = f"helper/{os.getpid()}"
    with open(os.environ.get("FORKS_TO", os.devnull), "a", encoding="ascii") as forks:
        forks.write(f"{os.getpid()}\n")


if __name__ == "__main__":
    count = int(sys.argv.pop(1))
    os.sched_getaffinity = lambda _: set(range(count))
    os.register_at_fork(after_in_child=_tell_process)

    from s3pool.cli.main import main

    raise SystemExit(main())
