"""The README's way from nothing to an answer fits the chart, the images and the rules it meets."""

import itertools
import re
import shlex
import subprocess

import yaml

from tasks.contract.artifacts import Node
from tasks.contract.workspace import Workspace, parse_workspace
from tasks.plan.checks import make_plan
from tasks.plan.findings import Findings
from tasks.platform.base import World
from tests.chart.rendering import CHART, KUBE_VERSION, ROOT, Object, containers, find, helm

TEXT = (ROOT / "README.md").read_text()
PART = TEXT[TEXT.index("## On a cluster") : TEXT.index("### Nodes")]
COMMANDS = re.findall(r"^```sh\n(.*?)^```", PART, re.MULTILINE | re.DOTALL)
GIVEN = {
    "REGISTRY": "registry",
    "SUBSCRIPTION": "0-0",
    "GROUP": "group",
    "CLUSTER": "cluster",
    "LOCATION": "eastus",
    "CLIENT_ID": "1-1",
}


def filled(text: str) -> str:
    """As a shell that has run the commands before would read it."""
    return re.sub(r"\$([A-Z_]+)", lambda name: GIVEN[name[1]], text)


def installed() -> list[Object]:
    """What its `helm install` makes of the chart."""
    [line] = re.findall(r"^helm install .*$", COMMANDS[3], re.MULTILINE)
    words = shlex.split(filled(line))
    told = [word for flag, word in itertools.pairwise(words) if flag == "--set"]
    options = ("--namespace", "kaitoflow", "--kube-version", KUBE_VERSION)
    sets = (part for each in told for part in ("--set", each))
    text = helm("template", "kaitoflow", CHART, *options, *sets)
    return [each for each in yaml.safe_load_all(text) if each]


def workspace() -> Workspace:
    [manifest] = re.findall(r"<<EOF\n(.*?)^EOF", COMMANDS[4], re.MULTILINE | re.DOTALL)
    return parse_workspace(yaml.safe_load(filled(manifest)), source="README.md")


def test_there_are_six_commands_that_a_shell_can_read() -> None:
    assert len(COMMANDS) == 6
    for command in COMMANDS:
        subprocess.run(["bash", "-n"], input=command, text=True, check=True)


def test_the_identity_is_the_one_of_the_worker_s_account() -> None:
    [subject] = re.findall(r"--subject (\S+)", COMMANDS[2])
    account = find(installed(), "ServiceAccount", "-worker")
    meta = account["metadata"]
    assert subject == f"system:serviceaccount:{meta['namespace']}:{meta['name']}"
    assert meta["annotations"] == {"azure.workload.identity/client-id": GIVEN["CLIENT_ID"]}


def test_the_images_are_pulled_from_where_they_were_pushed() -> None:
    [push] = re.findall(r"make images PUSH=(\S+)", COMMANDS[1])
    ours = [c["image"] for name, c in containers(installed()) if "postgresql" not in name]
    assert ours
    assert all(image.startswith(f"{filled(push)}/kaitoflow/control:") for image in ours)


def test_its_workspace_is_in_a_namespace_that_is_served_and_accepted() -> None:
    served = find(installed(), "Role", "-worker")["metadata"]["namespace"]
    assert f"kubectl apply --namespace {served} " in COMMANDS[4]
    node = Node(name="there", cores=4, memory_gib=28.0)
    world = World(
        node=node,
        config_maps={},
        has_secret=lambda _name: True,
        home=None,
        is_cluster=True,
        push=True,
    )
    plan = make_plan(workspace(), world, Findings(provisioner="aks"))
    assert plan.refused == []
    [fit] = [check for check in plan.checks if check.name == "GPU fit"]
    assert not fit.reason, fit


def test_the_login_is_made_for_the_image_that_is_pushed() -> None:
    tuning = workspace().tuning
    assert tuning
    [repository] = re.findall(r"--repository (\S+)", COMMANDS[4])
    assert tuning.output.image == f"registry.azurecr.io/{repository}:0.0.1"
    assert f"docker-registry {tuning.output.image_push_secret} " in COMMANDS[4]


def test_it_asks_the_workspace_by_its_name() -> None:
    assert f"http://{workspace().metadata.name}/chat" in COMMANDS[5]
