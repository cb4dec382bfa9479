from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.rgw import RgwCluster
from tests.support.run_cli import CliRunner

# This file stands behind the other live tests: after a kill the gateways that are left wait
# half a minute for the dead one's watch before they answer to a new bucket.


@pytest.mark.live
def test_killed_gateway_is_not_missed(rgw: RgwCluster, run_cli: CliRunner, tmp_path: Path, bucket_name: str) -> None:
    """A real process dies of SIGKILL between two commands, and is back later."""
    if not rgw.owned:
        pytest.skip("the cluster is shared with others")
    (tmp_path / "tree").mkdir()
    for number in range(20):
        (tmp_path / "tree" / f"{number}").write_bytes(os.urandom(100_000))
    before = [("mb", f"s3/{bucket_name}"), ("cp", "-r", "tree", f"s3/{bucket_name}/up")]
    after = [("ls", "-r", f"s3/{bucket_name}"), ("cp", "-r", f"s3/{bucket_name}/up", "back"), before[1]]

    codes = [run_cli(*argv, env=rgw.environment, cwd=tmp_path).code for argv in before]
    rgw.kill(1)
    codes += [run_cli(*argv, env=rgw.environment, cwd=tmp_path).code for argv in after * 2]
    rgw.start(1)

    sent = {path.name: path.read_bytes() for path in (tmp_path / "tree").iterdir()}
    assert [0] * 8 == codes
    assert sent == {path.name: path.read_bytes() for path in (tmp_path / "back").iterdir()}
