"""A warm process that runs each command in a forked child, which saves the start-up.

A request is one line of JSON on descriptor 3; the answers, ``pid N`` and ``end STATUS``, go to descriptor 4.
The child has its own session, so that what it leaves behind can be found.
"""

from __future__ import annotations

import json
import os
import random
import sys
from typing import Any

REQUESTS, ANSWERS = 3, 4
STREAMS = (("stdin", os.O_RDONLY), ("stdout", os.O_WRONLY), ("stderr", os.O_WRONLY))


def main() -> None:
    """Serve requests until their end; in a child, be s3pool."""
    _warm_up()
    with os.fdopen(REQUESTS, "rb", closefd=False) as requests:
        while line := requests.readline():
            pid = os.fork()
            if pid == 0:
                break
            os.write(ANSWERS, b"pid %d\n" % pid)
            _, status = os.waitpid(pid, 0)
            os.write(ANSWERS, b"end %d\n" % os.waitstatus_to_exitcode(status))
        else:
            return
    _become(json.loads(line))
    from s3pool.cli.main import main as s3pool

    raise SystemExit(s3pool())


def _warm_up() -> None:
    import s3pool.cli.commands.cp
    import s3pool.cli.main
    import s3pool.cli.parser
    import s3pool.s3.client
    import s3pool.session
    import s3pool.sync.run
    import s3pool.transfer.context  # noqa: F401


def _become(request: dict[str, Any]) -> None:
    os.setsid()
    for number, (name, flags) in enumerate(STREAMS):
        descriptor = os.open(request[name], flags)
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.close(REQUESTS)
    os.close(ANSWERS)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.argv = ["s3pool", *request["argv"]]
    _seed(int(request["seed"]))


def _seed(seed: int) -> None:
    """Let whatever is left to chance (which node is first) be the same in a replay."""
    original = random.Random

    class Seeded(original):  # type: ignore[misc, valid-type]
        def __init__(self, given: object = None) -> None:
            super().__init__(seed if given is None else given)

    random.Random = Seeded  # type: ignore[misc]
    random.seed(seed)


if __name__ == "__main__":
    main()
