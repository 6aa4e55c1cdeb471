"""What tests of every area share."""

from pathlib import Path

import pytest

from tests.models import fetch_smollm2

pytest_plugins = ["tests.cluster.fixtures"]


@pytest.fixture(scope="session")
def smollm2_weights() -> Path:
    """SmolLM2-135M-Instruct in Hugging Face layout."""
    return fetch_smollm2()
