"""Run the command line: ``python -m s3pool``, and the program ``s3pool``."""

import signal

# Until main() catches an interrupt it ends the process at once: nobody wants to read where imports were.
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from s3pool.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
