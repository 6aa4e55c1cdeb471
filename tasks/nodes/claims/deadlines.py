"""When a claim is given up. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from tasks.contract.errors import (
    GpuNotReady,
    NodeLaunchTimedOut,
    NodeRegistrationTimedOut,
    OfferUnavailable,
)
from tasks.nodes.claims.node_claim import moment_of, offer_of, state_of
from tasks.nodes.selection import PLUGIN_FIX


@dataclass(frozen=True, kw_only=True)
class Deadlines:
    """How long each step of a claim may take, in seconds; see `tasks.settings`.

    capacity_s: how long a run waits for any offer at all. look_again_s: between two looks.
    """

    launch_s: float
    register_s: float
    gpu_s: float
    capacity_s: float
    look_again_s: float = 2.0


def overdue(
    claim: Mapping[str, Any], deadlines: Deadlines, *, now: datetime, watched_since: datetime
) -> OfferUnavailable | None:
    """What a claim that missed a deadline is given back for; None while it is in time.

    Args: watched_since: when this process began. Time before counts for no deadline: nobody may
    have been there to fulfil the claim, or to note how far it had come.
    """
    state = state_of(claim)
    made = max(moment_of(claim, "Created"), watched_since)
    joined = max(moment_of(claim, "Registered"), watched_since)
    said = f"{state.reason}: {state.message}" if state.message else state.reason
    asked = f"a node was claimed as {claim['metadata']['name']} ({offer_of(claim)})"
    if not state.launched and now - made > timedelta(seconds=deadlines.launch_s):
        return NodeLaunchTimedOut(
            f"{asked}",
            f"no machine was made within {deadlines.launch_s:.0f} s ({said})",
            "see that who fulfils NodeClaims runs, and that the cloud has such machines",
        )
    if not state.registered and now - made > timedelta(seconds=deadlines.register_s):
        return NodeRegistrationTimedOut(
            f"{asked}",
            f"the machine did not join the cluster within {deadlines.register_s:.0f} s ({said})",
            "look at its boot log, network and image",
        )
    is_late = state.registered and now - joined > timedelta(seconds=deadlines.gpu_s)
    if is_late and not state.initialized:
        return GpuNotReady(
            f"{asked}",
            f"it joined, and its GPUs were not counted within {deadlines.gpu_s:.0f} s ({said})",
            PLUGIN_FIX,
        )
    return None
