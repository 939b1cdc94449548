"""What deploy/ says, read as the tools read it: compose, Kubernetes, systemd, container."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
COMPOSE = DEPLOY / "compose" / "compose.yaml"
TOOL_SECONDS = 60


def tool(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=TOOL_SECONDS, check=False)


@pytest.fixture(scope="module")
def manifests() -> dict[str, dict[str, Any]]:
    """The Kubernetes objects of the base, by kind."""
    folder = DEPLOY / "kubernetes"
    base = yaml.safe_load((folder / "kustomization.yaml").read_text(encoding="utf-8"))
    assert {folder / name for name in base["resources"]} | {folder / "kustomization.yaml"} == {
        *folder.iterdir()
    }
    objects = [yaml.safe_load((folder / name).read_text(encoding="utf-8")) for name in base["resources"]]
    return {item["kind"]: item for item in objects}


def test_kustomize_takes_the_base(not_run: Callable[[str], NoReturn]) -> None:
    if shutil.which("kubectl") is None:
        not_run("the program kubectl is not installed")
    done = tool("kubectl", "kustomize", str(DEPLOY / "kubernetes"))
    assert done.returncode == 0, done.stderr
    objects = [item for item in yaml.safe_load_all(done.stdout) if item]
    assert {item["metadata"].get("namespace", item["metadata"]["name"]) for item in objects} == {
        "agent-consensus"
    }


def test_the_base_follows_the_schemas_of_kubernetes(
    manifests: dict[str, dict[str, Any]], not_run: Callable[[str], NoReturn]
) -> None:
    """Of the oldest release that deploy/README.md names."""
    try:
        import kubernetes_validate  # type: ignore[import-untyped]  # it has no types
    except ImportError:
        not_run("kubernetes-validate is not installed")
    for manifest in manifests.values():
        kubernetes_validate.validate(manifest, "1.31", strict=True)
    wrong = {**manifests["Service"], "spec": {"clusterIP": 7}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, "1.31", strict=True)


def test_parts_of_the_base_belong_together(manifests: dict[str, dict[str, Any]]) -> None:
    assert set(manifests) == {"Namespace", "Service", "StatefulSet", "PodDisruptionBudget", "NetworkPolicy"}
    spec = manifests["StatefulSet"]["spec"]
    labels = spec["template"]["metadata"]["labels"]
    assert spec["serviceName"] == manifests["Service"]["metadata"]["name"]
    assert (spec["replicas"], spec["ordinals"], spec["podManagementPolicy"]) == (4, {"start": 1}, "Parallel")
    for selector in (
        spec["selector"]["matchLabels"],
        manifests["Service"]["spec"]["selector"],
        manifests["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        manifests["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
    ):
        assert selector == labels
    assert manifests["Service"]["spec"]["clusterIP"] == "None"
    assert manifests["Service"]["spec"]["publishNotReadyAddresses"] is True
    assert manifests["PodDisruptionBudget"]["spec"]["maxUnavailable"] == 1
    pod = spec["template"]["spec"]
    volumes = {item["name"] for item in (*pod["volumes"], *spec["volumeClaimTemplates"]) if "name" in item}
    volumes |= {item["metadata"]["name"] for item in spec["volumeClaimTemplates"]}
    for container in (*pod["containers"], *pod["initContainers"]):
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
    assert not any("secret" in volume for volume in pod["volumes"]), "keys are made where they are used"


def test_pods_are_confined(manifests: dict[str, dict[str, Any]]) -> None:
    pod = manifests["StatefulSet"]["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in (*pod["containers"], *pod["initContainers"]):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
    policy = manifests["NetworkPolicy"]["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert all(rule["from"] for rule in policy["ingress"])
    assert all(rule["to"] for rule in policy["egress"])


def test_each_port_of_a_pod_is_open_to_those_who_need_it(manifests: dict[str, dict[str, Any]]) -> None:
    pod = manifests["StatefulSet"]["spec"]["template"]["spec"]
    [container] = pod["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    ingress = manifests["NetworkPolicy"]["spec"]["ingress"]
    opened = {port["port"]: rule["from"] for rule in ingress for port in rule["ports"]}
    assert set(opened) == set(ports.values())
    assert {port["targetPort"]: port["port"] for port in manifests["Service"]["spec"]["ports"]} == ports
    for item in (container, *pod["initContainers"]):
        told = {each["name"]: each.get("value") for each in item["env"]}
        assert told["ACP_METRICS"] == f"0.0.0.0:{ports['metrics']}"
        assert told["ADDRESS"].endswith(f":{ports['grpc']}")
    # Plain HTTP: nobody but Prometheus, in a namespace of its own.
    assert all(
        "namespaceSelector" in source and "podSelector" in source for source in opened[ports["metrics"]]
    )


def test_no_probe_that_kills_asks_for_a_quorum(manifests: dict[str, dict[str, Any]]) -> None:
    [container] = manifests["StatefulSet"]["spec"]["template"]["spec"]["containers"]
    for probe in ("livenessProbe", "startupProbe"):
        assert container[probe]["exec"]["command"] == ["acp", "health", "/var/lib/acp/home"]
    assert container["readinessProbe"]["exec"]["command"][-2:] == ["--service", "ready"]


def test_compose_gives_each_node_its_own_keys() -> None:
    content = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))
    nodes = {name: item for name, item in content["services"].items() if name.startswith("node-")}
    assert len(nodes) == 4
    for name, service in nodes.items():
        assert service["volumes"] == [f"{name}:/var/lib/acp", "exchange:/exchange"]
        assert service["environment"] == {"NAME": name, "ADDRESS": f"{name}:7001", "ACP_OUTBOX": "/exchange"}
    for service in content["services"].values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert {mount.split(":")[0] for mount in service["volumes"]} <= set(content["volumes"])
        assert set(service.get("depends_on", ())) <= set(content["services"])
    assert content["services"]["founder"]["environment"]["NODES"].split() == list(nodes)


def test_compose_takes_the_file(not_run: Callable[[str], NoReturn]) -> None:
    if shutil.which("docker") is None or tool("docker", "compose", "version").returncode:
        not_run("docker compose is not installed")
    done = tool("docker", "compose", "-f", str(COMPOSE), "config", "--quiet")
    assert done.returncode == 0, done.stderr


def test_the_image_is_pinned_and_runs_as_nobody() -> None:
    text = (DEPLOY / "container" / "Dockerfile").read_text(encoding="utf-8")
    steps = re.sub(r"\\\n\s*", "", text).splitlines()
    assert sum(step.startswith("FROM ") for step in steps) == 2
    assert any("--require-hashes" in step for step in steps)
    assert [step for step in steps if step.startswith("USER ")] == ["USER 10001:10001"]
    assert any(step.startswith("HEALTHCHECK ") for step in steps)
    root = DEPLOY.parent
    for step in steps:
        if step.startswith("COPY ") and "--from" not in step:
            assert all((root / source).exists() for source in step.split()[1:-1]), step


def test_the_image_has_no_tools_of_developers() -> None:
    """The lock has them too, so the image has to drop each."""
    text = (DEPLOY / "container" / "Dockerfile").read_text(encoding="utf-8")
    dropped = re.search(r"pip uninstall --yes (.*)", re.sub(r"\\\n\s*", "", text))
    assert dropped is not None
    project = tomllib.loads((DEPLOY.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    tools = {re.split("[=<>]", name)[0] for name in project["optional-dependencies"]["dev"]}
    assert tools <= set(dropped[1].split())


@pytest.mark.parametrize("script", ["node.sh", "found.sh"])
def test_scripts_are_shell(script: str) -> None:
    done = tool("sh", "-n", str(DEPLOY / "container" / script))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["acp-node@.service", "acp-executor@.service"])
def test_systemd_takes_the_unit_and_finds_it_confined(
    name: str, tmp_path: Path, not_run: Callable[[str], NoReturn]
) -> None:
    if shutil.which("systemd-analyze") is None:
        not_run("the program systemd-analyze is not installed")
    unit = tmp_path / name
    text = (DEPLOY / "systemd" / name).read_text(encoding="utf-8")
    program = tmp_path / "acp"
    program.write_text("#!/bin/sh\n", encoding="utf-8")
    program.chmod(0o755)
    unit.write_text(text.replace("/opt/acp/bin/acp", str(program)), encoding="utf-8")
    done = tool("systemd-analyze", "verify", str(unit))
    assert (done.returncode, done.stderr) == (0, "")
    done = tool("systemd-analyze", "security", "--offline=yes", "--threshold=15", str(unit))
    assert done.returncode == 0, done.stdout[-200:]


def test_the_unit_leaves_alone_what_only_a_person_can_put_right() -> None:
    text = (DEPLOY / "systemd" / "acp-node@.service").read_text(encoding="utf-8")
    assert "RestartPreventExitStatus=8 9\n" in text
    assert "ExecReload=/bin/kill -HUP $MAINPID\n" in text
    text = (DEPLOY / "systemd" / "acp-executor@.service").read_text(encoding="utf-8")
    assert "RestartPreventExitStatus=2 8\n" in text
