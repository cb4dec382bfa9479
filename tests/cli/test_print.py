"""The unit and the Deployment of the README start this proxy, and let it end."""

from __future__ import annotations

import re
import shlex
from configparser import ConfigParser
from typing import Any

import pytest
import yaml

from s3pool.cli.commands.proxy import settings_of
from s3pool.cli.parser import parse
from s3pool.config.options import Config
from s3pool.proxy.settings import ProxySettings
from s3pool.units import parse_duration
from tests.support.run_cli import ROOT

README = (ROOT / "README.md").read_text()


def settings_for(argv: list[str]) -> ProxySettings:
    """Read a command line as the command does."""
    return settings_of(parse(argv), Config())


@pytest.fixture(scope="module")
def unit() -> ConfigParser:
    """Give the systemd unit."""
    blocks = re.findall(r"^```ini\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    parser = ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(next(block for block in blocks if "ExecStart" in block))
    return parser


@pytest.fixture(scope="module")
def documents() -> dict[str, Any]:
    """Give the Kubernetes objects by kind."""
    blocks = re.findall(r"^```yaml\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    found = [document for block in blocks for document in yaml.safe_load_all(block)]
    return {document["kind"]: document for document in found if "kind" in document}


def test_unit_starts_and_ends_the_proxy(unit: ConfigParser) -> None:
    """Systemd waits longer than the proxy drains, and takes its exit code for success."""
    service = unit["Service"]
    binary, *argv = shlex.split(service["ExecStart"])

    settings = settings_for(argv)

    assert binary.endswith("/s3pool")
    assert ("0.0.0.0", 8000) == (settings.listen.host, settings.listen.port)
    assert parse_duration(service["TimeoutStopSec"]) > settings.drain_delay + settings.drain_timeout
    assert "143" in service["SuccessExitStatus"].split()
    assert "-HUP $MAINPID" in service["ExecReload"]
    # The parent passes signals on; all at once would not hurt, but a kill of the group would.
    assert ("mixed", "on-failure") == (service["KillMode"], service["Restart"])


@pytest.mark.parametrize(
    "name", ["NoNewPrivileges", "DynamicUser", "PrivateTmp", "ProtectHome", "MemoryDenyWriteExecute"]
)
def test_unit_is_confined(unit: ConfigParser, name: str) -> None:
    """It needs a network, a directory for its temporary files, and nothing else."""
    assert "yes" == unit["Service"][name]
    assert ("strict", "") == (unit["Service"]["ProtectSystem"], unit["Service"]["CapabilityBoundingSet"])


def test_deployment_starts_and_ends_the_proxy(documents: dict[str, Any]) -> None:
    """Kubernetes asks where the proxy answers, and waits until it has drained."""
    pod = documents["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}

    settings = settings_for([*container["command"][1:], *container["args"]])

    assert (settings.listen.port, settings.admin_listen and settings.admin_listen.port) == (ports["s3"], ports["admin"])
    # Probes come from outside the pod.
    assert settings.admin_listen is not None
    assert not settings.admin_listen.is_loopback
    assert {"path": "/readyz", "port": "admin"} == container["readinessProbe"]["httpGet"]
    assert {"path": "/healthz", "port": "admin"} == container["livenessProbe"]["httpGet"]
    assert pod["terminationGracePeriodSeconds"] > settings.drain_delay + settings.drain_timeout
    assert settings.drain_delay > 0


def test_deployment_is_confined(documents: dict[str, Any]) -> None:
    """A root file system that nobody writes to needs a place for what is spooled."""
    pod = documents["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    context = container["securityContext"]

    assert (True, False, ["ALL"]) == (
        context["readOnlyRootFilesystem"],
        context["allowPrivilegeEscalation"],
        context["capabilities"]["drop"],
    )
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert ["/tmp"] == [mount["mountPath"] for mount in container["volumeMounts"]]
    size = re.fullmatch(r"([0-9]+)Gi", pod["volumes"][0]["emptyDir"]["sizeLimit"])
    assert size is not None
    assert int(size[1]) << 30 > settings_for(["proxy"]).spool_limit


def test_service_leads_to_the_pods(documents: dict[str, Any]) -> None:
    """And not to their admin listener."""
    labels = documents["Deployment"]["spec"]["template"]["metadata"]["labels"]
    service = documents["Service"]["spec"]

    assert labels == service["selector"] == documents["Deployment"]["spec"]["selector"]["matchLabels"]
    assert ["s3"] == [port["targetPort"] for port in service["ports"]]
