"""What the README shows is what the program says."""

from __future__ import annotations

import os
import re
import shlex
import time
from pathlib import Path

import pytest

from s3pool.cli.parser import ALL, HelpRequested, parse
from s3pool.config.values import parse_endpoints
from tests.cli.conftest import Call
from tests.support.fake_s3 import FakeS3
from tests.support.run_cli import ROOT, CliRunner

README = (ROOT / "README.md").read_text()
MOST_LINES = 250
HOUR_AGO = time.time() - 3600
CHANGING = (  # what differs from run to run
    (r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC\]", "[TIME]"),
    (r"\bin [0-9.]+(ms|s)\b", "in TIME"),
    (r"\([0-9.]+[KMG]iB/s\)", "(RATE)"),
)


def settled(text: str) -> list[str]:
    """Return lines without what differs from run to run; many transfers end in any order."""
    for pattern, word in CHANGING:
        text = re.sub(pattern, word, text)
    return sorted(text.splitlines())


def session() -> list[tuple[str, str]]:
    """Return the commands of the README's session, and what they print there."""
    (block,) = re.findall(r"^```console\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    parts = re.split(r"^\$ (.*)\n", block, flags=re.MULTILINE)
    return list(zip(parts[1::2], parts[2::2], strict=True))


def test_session_of_the_readme_is_real(fake: FakeS3, run_cli: CliRunner) -> None:
    """Command by command, with all that is printed."""
    run_cli.environ.update(fake.environment)
    (run_cli.home / "site" / "logs").mkdir(parents=True)
    (run_cli.home / "site" / "index.html").write_text("<h1>Hello from the pool</h1>\n")
    (run_cli.home / "site" / "logs" / "monday.log").write_bytes(b"m" * 600)
    (run_cli.home / "site" / "logs" / "tuesday.log").write_bytes(b"t" * 3000)
    for path in (run_cli.home / "site").rglob("*"):
        os.utime(path, (HOUR_AGO, HOUR_AGO))  # files of people are older than a test's

    for command, shown in session():
        result = run_cli(*shlex.split(command)[1:])

        assert 0 == result.code, (command, result.err)
        assert settled(shown) == settled(result.out + result.err), command


def test_readme_is_read_in_minutes() -> None:
    """All else is in the manual."""
    assert len(README.splitlines()) <= MOST_LINES


@pytest.mark.parametrize("command", ALL)
def test_readme_names_every_command(command: str) -> None:
    """A command that nobody hears of is not there."""
    assert f"`{command}`" in README


def test_links_of_the_readme_lead_somewhere() -> None:
    """Pictures and pages are in the repository."""
    targets = re.findall(r"\]\(([^)#]+)\)", README)

    assert [] == [target for target in targets if not (ROOT / target).exists() and "://" not in target]
    assert Path(ROOT / ".github" / "sync.svg").stat().st_size > 1000


def command_lines() -> list[str]:
    """Return the command lines in the text, besides the session: in code of one line, and indented."""
    inline = re.findall(r"`(s3pool [^`]+)`", README) + re.findall(r"^    (s3pool .*?)(?: +#.*)?$", README, re.MULTILINE)
    return sorted(set(inline))


@pytest.mark.parametrize("line", command_lines())
def test_command_lines_in_the_text_are_taken(line: str) -> None:
    """Each flag exists, and takes what stands behind it."""
    words = shlex.split(line.partition(" > ")[0])[1:]
    if len(words) == 1:
        assert words[0] in ALL  # it is only named
    elif "COMMAND" in words or words[0] == "help":
        with pytest.raises(HelpRequested):
            parse([word.replace("COMMAND", "cp") for word in words])
    else:
        assert words[0 if words[0] in ALL else 1] == parse(words).command


def test_quick_start_names_nodes(call: Call, tmp_path: Path) -> None:
    """Each line for the environment, and the file, as the program reads them."""
    exports = re.findall(r"^export S3_POOL=(\S+)", README, re.MULTILINE)
    (file,) = re.findall(r"^```yaml\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    (tmp_path / "config.yaml").write_text(file)
    (tmp_path / "config.yaml").chmod(0o600)

    assert [4, 4, 1, 1] == [len(parse_endpoints([value])) for value in exports]
    for profile, nodes in (("berlin", 4), ("paris", 8)):
        shown = call("config", "--json", "--config", "config.yaml", "--profile", profile, env={"S3_POOL": ""})
        assert 0 == shown.code, shown.err
        (endpoints,) = (record for record in shown.records if record["option"] == "endpoints")
        assert nodes == len(re.findall(r"https?://", str(endpoints["value"]))), endpoints
