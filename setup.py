"""Register the man-page command; everything else stands in setup.cfg."""

from setuptools import setup

try:
    from build_manpages.build_manpages import build_manpages
except ImportError:  # only `make man` needs the generator: the pages are committed
    COMMANDS = {}
else:
    COMMANDS = {"build_manpages": build_manpages}

setup(cmdclass=COMMANDS)
