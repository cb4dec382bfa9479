"""Run the command line: ``python -m s3pool``, and the program ``s3pool``."""

# The built-in module, because signal itself takes 3 ms to load, in which an interrupt would print a traceback.
from _signal import SIG_DFL, SIGINT, default_int_handler, getsignal, signal  # type: ignore[import-not-found]

# Until main() catches an interrupt it ends the process at once: nobody wants to read where imports were.
if getsignal(SIGINT) is default_int_handler:
    signal(SIGINT, SIG_DFL)

from s3pool.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
