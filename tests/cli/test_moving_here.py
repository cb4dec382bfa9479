"""Command lines of mc, which run with the program's name changed, and those of the README's table of other tools."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable
from pathlib import Path

import boto3
import pytest

from s3pool.cli.main import main
from tests.support.moto_fleet import MotoFleet
from tests.support.run_cli import CliResult

ROOT = Path(__file__).resolve().parents[2]
# As they stand in scripts that people run against their clusters, with other names. B is a bucket with objects in it.
MC = """
mb local/B-new
mb --ignore-existing local/B
mb -p local/B
mb --with-versioning local/B-new
mb --with-lock local/B-new
mb --region us-east-1 local/B-new
ls local
ls local/B
ls --recursive local/B
ls --recursive --versions local/B
ls --json local/B/logs/
ls --incomplete --recursive local/B
ls --summarize -r local/B
cp report.txt local/B/report.txt
cp report.txt local/B/in/
cp --recursive site/ local/B/site/
cp -r local/B/logs/ restored/
cp local/B/logs/one.log one.log
cp --quiet report.txt local/B/
cp --storage-class STANDARD report.txt local/B/
cp --tags team=web report.txt local/B/tagged.txt
cp --attr Cache-Control=no-cache report.txt local/B/
cp --recursive --older-than 1s local/B/logs local/B/older
cp --insecure report.txt local/B/insecure.txt
mv local/B/logs/one.log local/B/moved.log
mirror site local/B/site
mirror --overwrite site local/B/site
mirror --overwrite --remove site local/B/site
mirror --exclude *.tmp site local/B/site
mirror --quiet --preserve local/B/logs backup
rm local/B/logs/one.log
rm --recursive --force local/B/logs
rm --recursive --force --dangerous local/B
rm --recursive --force --versions local/B
rm --recursive --force --older-than 7d local/B
rm --incomplete --recursive --force local/B
rb --force local/B
stat local/B/report
stat --json local/B/report
stat local/B
cat local/B/report
head -n 1 local/B/report
pipe local/B/piped
du local/B
du --depth 1 local/B
tree local/B
tree --files local/B
diff site local/B
find local/B --name *.log
find local/B --older-than 1s --larger 1
find local/B --name *.log --exec "echo {}"
find local/B --name report --print {base}
share download local/B/report
share download --expire 4h local/B/report
anonymous set download local/B
anonymous get local/B
anonymous set none local/B
version enable local/B
version info local/B
tag set local/B/report team=web
tag list local/B
ilm rule add --expire-days 90 local/B
ilm ls local/B
ilm export local/B
anonymous set-json policy.json local/B
anonymous get-json local/B
alias set local http://127.0.0.1:9000 key secret
alias list
ready local
""".strip().splitlines()
ANSWERED = {
    "cp --attr Cache-Control=no-cache report.txt local/B/": "write --metadata K=V",
    "alias set local http://127.0.0.1:9000 key secret": "write s3pool config",
    "alias list": "write s3pool config",
    "ready local": "write s3pool ping",
}


@pytest.fixture
def run(
    moto: MotoFleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> Callable[[str], CliResult]:
    """Run a line of a script where a profile takes the place of an alias, some files lie, and B is filled."""
    bucket = f"moving-{abs(hash(tmp_path)):x}"[:40]
    client = boto3.client(
        "s3", endpoint_url=moto.endpoints[0], aws_access_key_id="demo", aws_secret_access_key="demo-secret"
    )
    client.create_bucket(Bucket=bucket)
    for key in ("report", "logs/one.log", "logs/two.log"):
        client.put_object(Bucket=bucket, Key=key, Body=b"first\nsecond\n")
    for name in ("report.txt", "site/index.html", "site/a.tmp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("content\n")
    resource = f'"Principal":"*","Action":["s3:GetObject"],"Resource":["arn:aws:s3:::{bucket}/*"]'
    (tmp_path / "policy.json").write_text(f'{{"Statement":[{{"Effect":"Allow",{resource}}}]}}')
    config = tmp_path / ".s3pool" / "config.yaml"
    config.parent.mkdir()
    nodes = ", ".join(moto.endpoints)
    keys = "    access_key: demo\n    secret_key: demo-secret\n"
    config.write_text(f"profiles:\n  local:\n    endpoints: [{nodes}]\n{keys}")
    config.chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    def call(line: str) -> CliResult:
        import shlex

        words = shlex.split(re.sub(r"\bB\b", bucket, line))
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"x")))
        capfdbinary.readouterr()
        code = main(words, environ={"AWS_EC2_METADATA_DISABLED": "true"})
        captured = capfdbinary.readouterr()
        return CliResult(tuple(words), code, captured.out, captured.err)

    return call


@pytest.mark.parametrize("line", MC)
def test_line_of_mc_runs_or_is_answered(run: Callable[[str], CliResult], line: str) -> None:
    """Whoever moves changes the program's name, and is told the rest in one line."""
    result = run(line)

    if line in ANSWERED:
        assert (2, "", 1) == (result.code, result.out, result.err.count("\n"))
        assert ANSWERED[line] in result.err
    else:
        assert (1 if line.startswith("diff ") else 0) == result.code, result.err


def test_nine_of_ten_lines_of_mc_run() -> None:
    """What is answered is the exception."""
    assert len(MC) >= 60
    assert len(ANSWERED) <= len(MC) / 10


def _rows() -> list[str]:
    """Return the command lines of ours in the README's table of other tools."""
    text = (ROOT / "README.md").read_text()
    table = text[text.index("| mc, s5cmd, aws, rclone | s3pool |") :].split("\n\n")[0]
    return [row.split("|")[2].strip().strip("`") for row in table.splitlines()[2:]]


@pytest.mark.parametrize("line", _rows())
def test_row_of_the_table_runs(run: Callable[[str], CliResult], line: str) -> None:
    """The README says nothing that does not work."""
    result = run(line.removeprefix("s3pool ").replace("s3/b", "local/B"))

    assert 0 == result.code, result.err
