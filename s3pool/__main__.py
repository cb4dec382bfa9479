"""Run the command line: ``python -m s3pool``."""

from s3pool.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
