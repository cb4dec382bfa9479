"""``s3pool config`` as a user sees it."""

from __future__ import annotations

import io
import json
from argparse import ArgumentParser, Namespace
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from s3pool.cli.commands import config as command
from s3pool.cli.output import Output
from s3pool.config.load import load_config


@dataclass
class Run:
    code: int
    out: str
    err: str


def run(tmp_path: Path, environ: dict[str, str], *, as_json: bool = False) -> Run:
    """Run the command on an environment in an empty home."""
    out, err = io.BytesIO(), io.StringIO()
    output = Output(stdout=out, stderr=err, json=as_json, op="config")
    settings = load_config({}, environ=environ, cwd=str(tmp_path), home=str(tmp_path))
    context: Any = SimpleNamespace(config=settings, out=output)
    code = command.run(Namespace(action=None), context)
    output.flush()
    return Run(code, out.getvalue().decode(), err.getvalue())


READY = {"S3_POOL": "http://a:1", "AWS_ACCESS_KEY_ID": "ak", "AWS_SECRET_ACCESS_KEY": "hush"}


def test_columns_are_aligned(tmp_path: Path) -> None:
    """Option, value, origin; a dash where nothing is set."""
    lines = run(tmp_path, READY).out.splitlines()

    assert "endpoints        http://a:1   environment S3_POOL" in lines
    assert "secret_key       ********     environment AWS_SECRET_ACCESS_KEY" in lines
    assert "bucket           -            default" in lines


def test_a_long_value_leaves_the_other_lines_short(tmp_path: Path) -> None:
    """Twenty endpoints must not push every origin beyond the edge of a terminal."""
    urls = ",".join(f"http://node{number}:9000" for number in range(1, 21))

    lines = run(tmp_path, {**READY, "S3_POOL": urls}).out.splitlines()

    assert f"endpoints        {urls}  environment S3_POOL" in lines
    assert "secret_key       ********     environment AWS_SECRET_ACCESS_KEY" in lines


def test_json_is_one_object_a_line(tmp_path: Path) -> None:
    """With exactly the promised fields."""
    records = [json.loads(line) for line in run(tmp_path, READY, as_json=True).out.splitlines()]

    assert {
        "type": "config",
        "option": "endpoints",
        "value": "http://a:1",
        "origin": "environment S3_POOL",
    } in records
    assert {("type", "option", "value", "origin")} == {tuple(record) for record in records}


@pytest.mark.parametrize("as_json", [False, True])
def test_secret_is_nowhere(tmp_path: Path, as_json: bool) -> None:
    """The output goes into tickets."""
    shown = run(tmp_path, READY, as_json=as_json)

    assert "hush" not in shown.out + shown.err


def test_complete_configuration_has_nothing_to_say(tmp_path: Path) -> None:
    """Stderr is for what is missing."""
    shown = run(tmp_path, READY)

    assert (0, "") == (shown.code, shown.err)


def test_missing_endpoints_and_keys_are_said_and_no_failure(tmp_path: Path) -> None:
    """The command is there to find out what is missing."""
    shown = run(tmp_path, {})

    assert 0 == shown.code
    assert ["no endpoint is set", "no credentials are set"] == [
        line.removeprefix("s3pool: warning: ").partition(":")[0] for line in shown.err.splitlines()
    ]


def test_control_characters_are_escaped(tmp_path: Path) -> None:
    """A value must not steer the terminal."""
    shown = run(tmp_path, {**READY, "S3_BUCKET": "a\x1b[31m"})

    assert "a\\x1b[31m" in shown.out
    assert "\x1b" not in shown.out


def test_it_shows_unless_it_is_told_to_import() -> None:
    """Flags that it read and did not show would be a trap."""
    parser = ArgumentParser()
    command.add_arguments(parser)

    assert Namespace(action=None, tool=None, force=False) == parser.parse_args([])
    assert ("import", "mc") == (parser.parse_args(["import", "mc"]).action, parser.parse_args(["import", "mc"]).tool)
    assert "origin" in (parser.epilog or "")
