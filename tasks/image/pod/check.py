"""Run as `python -m tasks.image.pod.check CONFIG.json`: say if a push is allowed (PushConfig)."""

import sys
from collections.abc import Mapping
from typing import Any

from tasks.image.pod.config import PushConfig
from tasks.image.pod.push import check_push_access
from tasks.image.pod.reference import parse_push_reference
from tasks.podlog import run_program


def check_push(config: PushConfig) -> Mapping[str, Any]:
    """The image name in full, once a push to it is known to be allowed. Key: reference."""
    check_push_access(config)
    return {"reference": str(parse_push_reference(config.reference))}


if __name__ == "__main__":
    sys.exit(run_program(PushConfig, check_push, sys.argv))
