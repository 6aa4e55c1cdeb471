"""Run as `python -m tasks.image.pod.check CONFIG.json`: say if a push is allowed (PushConfig)."""

import sys

from tasks.contract.image_reference import parse_push_reference
from tasks.contract.podlog import run_program
from tasks.contract.programs.image import CheckResult, PushConfig
from tasks.image.pod.push import check_push_access


def check_push(config: PushConfig) -> CheckResult:
    """The image name in full, once a push to it is known to be allowed."""
    check_push_access(config)
    return CheckResult(reference=str(parse_push_reference(config.reference)))


if __name__ == "__main__":
    sys.exit(run_program(PushConfig, check_push, sys.argv))
