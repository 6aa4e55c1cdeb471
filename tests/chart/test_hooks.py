"""What the Jobs of Helm's events do on a real API server, with the rights that they are given."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.installation.passwords import PasswordNotFound
from tasks.contract.workspace import FINALIZER
from tests.builders import tuning_manifest
from tests.chart.conftest import Installation
from tests.chart.rendering import CRDS, KUBE_VERSION, RELEASE, RELEASED, Object, helm, hooks
from tests.cluster.simulated_node import Script

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

DATABASE, LOGIN = "kaitoflow-postgresql", "kaitoflow-prefect-auth"
DRAIN: Object = {"uninstall": {"drain": True, "timeoutSeconds": 2}}


def secret(installation: Installation, name: str) -> Any:
    here = ("--namespace", installation.namespace, "--output=json")
    return json.loads(installation.control_plane.kubectl("get", "secret", name, *here))


def passwords(installation: Installation) -> tuple[str, str]:
    wanted = ((DATABASE, "password"), (LOGIN, "auth-string"))
    first, second = (secret(installation, name)["data"][key] for name, key in wanted)
    return base64.b64decode(first).decode(), base64.b64decode(second).decode()


def test_passwords_are_made_once_and_never_again(installation: Installation) -> None:
    first = installation.run_hook("passwords")
    assert first.stdout == f"secret/{LOGIN} made\nsecret/{DATABASE} made\n", first.stderr
    made = passwords(installation)
    assert [len(each.removeprefix("kaitoflow:")) for each in made] == [32, 32]
    again = installation.run_hook("passwords")
    assert again.stdout == f"secret/{LOGIN} kept as it is\nsecret/{DATABASE} kept as it is\n"
    assert passwords(installation) == made


def test_argo_never_takes_a_password_for_its_own(installation: Installation) -> None:
    """It removes what has its label and is in no manifest."""
    installation.run_hook("passwords")
    labels = secret(installation, DATABASE)["metadata"]["labels"]
    assert labels == {"app.kubernetes.io/part-of": "kaitoflow"}


def asked(applied: str) -> list[Object]:
    """What objects ask for, without what the API server and controllers keep of them."""
    kept = ("labels", "generation")
    return [
        {key: value for key, value in each.items() if key not in ("metadata", "status")}
        | {key: each["metadata"].get(key) for key in kept}
        for each in json.loads(applied)["items"]
    ]


def test_five_syncs_as_argo_does_them_change_nothing_and_leave_every_password(
    installation: Installation,
) -> None:
    """The hook runs, then all that is no hook is applied as it was rendered."""
    options = ("--namespace", installation.namespace, "--kube-version", KUBE_VERSION, "--no-hooks")
    values, kubectl = json.dumps(installation.values()), installation.control_plane.kubectl
    found = []
    for _ in range(5):
        assert installation.run_hook("passwords").returncode == 0
        text = helm("template", RELEASE, "deployments/chart", *options, "--values=-", stdin=values)
        apply = ("apply", "--server-side", "--filename=-", "--output=json")
        found.append((passwords(installation), asked(kubectl(*apply, stdin=text))))
    kubectl("delete", "--filename=-", stdin=text)
    assert len(found[0][1]) > 20
    assert all(each == found[0] for each in found)


def test_hooks_that_are_merely_applied_can_be_applied_again_at_another_version(
    installation: Installation,
) -> None:
    for tag in ("1", "2"):
        objects = installation.render({"image": {"control": {"tag": tag}}})
        made = [o for name in ("passwords", "uninstall") for o in hooks(objects, name)]
        text = yaml.safe_dump_all(made)
        installation.control_plane.kubectl("apply", "--filename=-", stdin=text)


def test_a_secret_without_its_key_is_told_and_left(installation: Installation) -> None:
    here = ("--namespace", installation.namespace)
    installation.control_plane.kubectl("create", "secret", "generic", DATABASE, *here)
    said = installation.run_hook("passwords")
    assert said.returncode == 3
    assert PasswordNotFound.__name__ in said.stderr
    assert "add the key, or delete the Secret" in said.stderr


def test_a_release_whose_templates_made_the_passwords_is_upgraded_with_them(
    installation: Installation, tmp_path: Path
) -> None:
    installation.install_released(RELEASED, tmp_path / "released")
    before = passwords(installation)
    assert before == ("old-password", "kaitoflow:old")
    assert installation.run_hook("passwords").returncode == 0
    installation.install()
    assert passwords(installation) == before
    installation.uninstall()
    assert passwords(installation) == before


@pytest.fixture
def workspace(installation: Installation) -> str:
    """One that is held, as by a watcher, in the namespace that is served."""
    kubernetes, here = installation.control_plane, f"--namespace={installation.workspaces}"
    kubernetes.define("workspaces.kaito.sh", (CRDS / "kaito.sh_workspaces.yaml").read_text())
    manifest = tuning_manifest()
    manifest["metadata"]["finalizers"] = [FINALIZER]
    kubernetes.kubectl("create", "--filename=-", here, stdin=json.dumps(manifest))
    return f"{installation.workspaces}/{manifest['metadata']['name']}"


def let_go(installation: Installation, workspace: str) -> None:
    """What watcher and worker do in the end."""
    namespace, _, name = workspace.partition("/")
    patch = '{"metadata": {"finalizers": []}}'
    installation.control_plane.kubectl(
        *("patch", "workspace", name, f"--namespace={namespace}", "--type=merge"),
        f"--patch={patch}",
    )


def exists(installation: Installation, workspace: str) -> bool:
    namespace, _, name = workspace.partition("/")
    get = ("get", "workspace", name, f"--namespace={namespace}", "--ignore-not-found", "-oname")
    return bool(installation.control_plane.kubectl(*get))


def test_an_uninstallation_is_refused_while_a_workspace_lives(
    installation: Installation, workspace: str
) -> None:
    said = installation.run_hook("uninstall")
    assert said.returncode == 3
    assert f"1 Workspace(s): {workspace}; delete them, or have it done" in said.stderr
    assert "--set uninstall.drain=true" in said.stderr
    let_go(installation, workspace)
    namespace, _, name = workspace.partition("/")
    installation.control_plane.kubectl("delete", "workspace", name, f"--namespace={namespace}")
    assert installation.run_hook("uninstall").returncode == 0


def test_a_workspace_of_a_namespace_that_is_not_served_holds_nobody_up(
    installation: Installation, workspace: str
) -> None:
    elsewhere = {"namespaces": [installation.namespace]}
    assert installation.run_hook("uninstall", elsewhere).returncode == 0
    let_go(installation, workspace)


def test_a_drained_installation_has_every_workspace_deleted(
    installation: Installation, workspace: str
) -> None:
    said = installation.run_hook("uninstall", DRAIN)
    assert said.returncode == 3  # nobody has let go
    assert said.stdout == f"waiting for Workspaces to go: {workspace}\n"
    assert "have not let go within 2 s of 1 Workspace(s)" in said.stderr
    let_go(installation, workspace)
    assert not exists(installation, workspace)
    assert installation.run_hook("uninstall", DRAIN).returncode == 0


def test_applying_all_manifests_deletes_no_workspace(
    installation: Installation, workspace: str
) -> None:
    said = installation.run_hook("uninstall", DRAIN, made_by="kubectl-client-side-apply")
    assert (said.returncode, said.stderr) == (0, "")
    assert said.stdout.endswith("was applied with other manifests: nothing is uninstalled\n")
    assert exists(installation, workspace)
    let_go(installation, workspace)


def of_hooks(installation: Installation) -> list[str]:
    """What is there of both hooks."""
    kinds = "jobs,serviceaccounts,roles,rolebindings"
    components = "app.kubernetes.io/component in (passwords,uninstall)"
    here = (f"--namespace={installation.namespace}", f"--selector={components}", "--output=name")
    return installation.control_plane.kubectl("get", kinds, *here).split()


def test_helm_waits_for_its_hooks_and_goes_no_further_when_one_says_no(
    installation: Installation,
) -> None:
    """Helm itself; a node plays what the Jobs' pods answer."""
    values = installation.values({"hooks": {"tolerations": [{"operator": "Exists"}]}})
    with installation.node() as machine:
        machine.scripts |= {"passwords": Script(), "uninstall": Script(exit_code=3)}
        install = ("upgrade", RELEASE, "deployments/chart", "--install", "--timeout=60s")
        installation.helm(*install, values=values)
        assert machine.started[installation.namespace, "passwords"] == 1
        assert of_hooks(installation) == []
        uninstall = ("uninstall", RELEASE, "--timeout=60s")
        with pytest.raises(RuntimeError, match="BackoffLimitExceeded"):
            installation.helm(*uninstall)
        here = ("--namespace", installation.namespace, "--output=name")
        assert installation.control_plane.kubectl("get", "deployments", *here) != ""
        machine.scripts["uninstall"] = Script()
        installation.helm(*uninstall)
        assert machine.started[installation.namespace, "uninstall"] == 2
        assert installation.control_plane.kubectl("get", "deployments", *here) == ""
    assert of_hooks(installation) == []
