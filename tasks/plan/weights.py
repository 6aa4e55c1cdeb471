"""Where the base model's weights come from, where that is not the hub. Pure."""

from tasks.contract.artifacts import Check
from tasks.contract.errors import AddressForbidden, KaitoflowError, WeightsUnavailable
from tasks.plan.check import not_told
from tasks.plan.findings import WeightsSeen

_NAME = "weights"


def weights(found: WeightsSeen | KaitoflowError) -> Check | str:
    """The image that they come from, and whether it is there.

    Raises: WeightsUnavailable.
    """
    if isinstance(found, AddressForbidden):
        return Check(
            name=_NAME,
            result="warn",
            detail=f"{found.asked}; it lies inside, and was not asked from here",
            fix="see that the model is there (kaitoflow models push): the pod pulls it",
        )
    if isinstance(found, KaitoflowError):
        return not_told(_NAME, found)
    if found.digest is None:
        return f"{found.image}, which its registry shows to nobody without a login"
    if not found.digest:
        raise WeightsUnavailable(
            f"the base model comes from the image {found.image}",
            "its registry has none of that name",
            "push it there (kaitoflow models push MODEL REGISTRY)",
        )
    return f"{found.image}@{found.digest}"
