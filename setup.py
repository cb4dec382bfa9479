"""What the source archive holds; all else stands in setup.cfg."""

from setuptools import setup
from setuptools.command.sdist import sdist


class Archive(sdist):
    """The source archive, with all that `make test`, `make man` and `make deb` need."""

    def make_distribution(self):
        """Add the tests, the manual's sources and the Makefile to setuptools' own choice."""
        for directory in ("tests", "man", "s3pool", ".ci"):
            self.filelist.graft(directory)
        self.filelist.extend(["Makefile", ".ruff.toml"])
        self.filelist.global_exclude("*.py[cod]")
        super().make_distribution()


setup(cmdclass={"sdist": Archive})
