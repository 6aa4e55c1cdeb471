"""Several settings are tuned by the command line, and the best one's adapter is kept."""

import pytest
import yaml

from tests.flows.conftest import Installation, write_workspace

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_the_best_of_two_rates_is_kept_without_being_tuned_again(
    installation: Installation,
) -> None:
    file = write_workspace(
        installation.home,
        "swept",
        rows=40,
        training={"max_steps": 8, "per_device_train_batch_size": 4},
        split=0.7,
    )
    workspace, config = yaml.safe_load_all(file.read_text())
    workspace["metadata"]["annotations"] = {"kaito.sh/serve": "false"}
    file.write_text(yaml.safe_dump_all([workspace, config]))
    ended = installation.kaitoflow("sweep", str(file), "--set", "learning_rate=1e-6,1e-3")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    low, high = ended.stdout.splitlines()[-2:]
    assert low.startswith("TrainingArguments.learning_rate 1e-6 ")
    assert not low.endswith("kept")
    assert high.startswith("TrainingArguments.learning_rate 1e-3 ")
    assert high.endswith("kept")
    status = installation.object("swept")["status"]
    assert [each["fate"] for each in status["adapters"]["records"]] == ["served", "serving"]
    assert status["image"]["digest"] == status["adapters"]["records"][1]["image"]["digest"]
