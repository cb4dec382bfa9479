"""The files of s3pool print are valid, and start and watch this program."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from s3pool.cli.commands.proxy import settings_of
from s3pool.cli.parser import parse
from s3pool.config.options import Config
from s3pool.proxy.settings import ProxySettings
from s3pool.units import parse_duration
from tests.support.manual import proxy_metrics
from tests.support.run_cli import CliRunner

METRIC = re.compile(r"s3pool_[a-z_]+[a-z]")


def settings_for(argv: list[str]) -> ProxySettings:
    """Read a command line as the command does."""
    return settings_of(parse(argv), Config())


def unit_in(text: str) -> ConfigParser:
    """Return a systemd unit."""
    parser = ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(text)
    return parser


@pytest.fixture
def unit(run_here: CliRunner) -> ConfigParser:
    """Return the unit of the proxy."""
    return unit_in(run_here("print", "systemd").out)


@pytest.fixture
def documents(run_here: CliRunner) -> dict[str, Any]:
    """Return the Kubernetes objects of the proxy by kind."""
    found = list(yaml.safe_load_all(run_here("print", "kubernetes").stdout))
    return {document["kind"]: document for document in found}


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


def test_unit_of_the_proxy_is_what_its_flag_prints(run_here: CliRunner) -> None:
    """Two ways to one file."""
    assert run_here("print", "systemd").stdout == run_here("proxy", "--print-unit").stdout != b""


def test_unit_of_sync_runs_a_sync_that_the_timer_starts(run_here: CliRunner) -> None:
    """The state and the metrics file lie where the unit may write; a second run is no failure."""
    unit = unit_in(run_here("print", "systemd-sync").out)
    service, timer = unit["Service"], unit_in(run_here("print", "systemd-timer").out)["Timer"]
    args = parse(shlex.split(service["ExecStart"])[1:])
    directory = f"/var/lib/{service['StateDirectory']}/"

    assert ("sync", True) == (args.command, args.delete)
    assert args.metrics_file.startswith(directory)
    assert directory == f"{service['Environment'].removeprefix('XDG_STATE_HOME=')}/s3pool/"
    assert ("oneshot", "75") == (service["Type"], service["SuccessExitStatus"])
    assert timer["OnCalendar"]


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="there is no systemd here")
@pytest.mark.parametrize("name", ["systemd", "systemd-sync", "systemd-timer"])
def test_systemd_takes_the_units(run_here: CliRunner, tmp_path: Path, name: str) -> None:
    """Systemd itself judges: no unknown key, no bad value."""
    for each, file in (("systemd", "s3pool-proxy.service"), ("systemd-sync", "s3pool-sync.service")):
        text = re.sub(r"^(ExecStart=)[^ ]+", r"\1/bin/true", run_here("print", each).out, flags=re.MULTILINE)
        (tmp_path / file).write_text(text)
    (tmp_path / "s3pool-sync.timer").write_text(run_here("print", "systemd-timer").out)
    file = {"systemd": "s3pool-proxy.service", "systemd-sync": "s3pool-sync.service"}.get(name, "s3pool-sync.timer")

    judged = subprocess.run(["systemd-analyze", "verify", tmp_path / file], capture_output=True, text=True, check=False)

    assert [] == [line for line in judged.stderr.splitlines() if "s3pool-" in line]


@pytest.fixture
def known_metrics() -> set[str]:
    """Return the names of all metrics that the proxy and sync write."""
    from s3pool.sync import job

    kinds = {name: kind for name, kind, _, _ in proxy_metrics()}
    names = set(kinds)
    names |= {f"{name}_{end}" for name in names if kinds[name] == "histogram" for end in ("bucket", "count", "sum")}
    source = Path(job.__file__).read_text()
    return names | {f"s3pool_sync_{name}" for name in re.findall(r'gauge\("([a-z_]+)"', source)} | {job.LAST_SUCCESS}


@pytest.mark.parametrize("name", ["grafana", "alerts"])
def test_dashboard_and_alerts_ask_for_metrics_that_exist(
    run_here: CliRunner, known_metrics: set[str], name: str
) -> None:
    """A panel without data is found out on the worst day."""
    text = run_here("print", name).out
    if name == "grafana":
        expressions = [target["expr"] for panel in json.loads(text)["panels"] for target in panel["targets"]]
    else:
        expressions = [rule["expr"] for group in yaml.safe_load(text)["groups"] for rule in group["rules"]]

    asked = {metric for expression in expressions for metric in METRIC.findall(expression)}

    assert len(expressions) > 8
    assert set() == asked - known_metrics


@pytest.mark.skipif(not shutil.which("promtool"), reason="there is no promtool here")
def test_promtool_takes_the_alerts(run_here: CliRunner, tmp_path: Path) -> None:
    """Prometheus itself judges the rules."""
    (tmp_path / "rules.yaml").write_bytes(run_here("print", "alerts").stdout)

    judged = subprocess.run(["promtool", "check", "rules", tmp_path / "rules.yaml"], capture_output=True, check=False)

    assert 0 == judged.returncode, judged.stderr


def test_image_runs_the_proxy_as_nobody_special(run_here: CliRunner) -> None:
    """The command of the image is one that this program understands."""
    lines = run_here("print", "containerfile").out.splitlines()
    entry, words = (
        json.loads(next(line for line in lines if line.startswith(f"{word} "))[len(word) :])
        for word in ("ENTRYPOINT", "CMD")
    )

    settings = settings_for(words)

    assert ["s3pool"] == entry
    assert (8000, 8001) == (settings.listen.port, settings.admin_listen and settings.admin_listen.port)
    assert "USER 10001:10001" in lines
    assert run_here("--version").out.split()[-1] in "\n".join(lines)


def test_another_name_is_refused(run_here: CliRunner) -> None:
    """One line, with the names there are."""
    result = run_here("print", "nomad")

    assert (2, 1) == (result.code, result.err.count("\n"))
    assert "systemd" in result.err
