"""What the plan advises of a training's settings, before its dataset is read. Pure."""

from tasks.contract.artifacts import Check
from tasks.estimate.advice import advised_rank, advised_rate
from tasks.plan.size import Run


def advice(run: Run) -> Check | None:
    """A line where settings are far from what suits the model; None where they are not.

    Of the dataset no more than its size is known here: its answers, and so epochs and steps, are
    advised on by the step that reads it.
    """
    if run.config is None:
        return None
    rate = advised_rate(run.config, shape=run.shape, architecture=run.preset.architecture)
    rank = None
    if run.tokens:
        rank = advised_rank(run.config, shape=run.shape, answer_tokens=run.tokens)
    advised = [each for each in (rate, rank) if each]
    if not advised:
        return None
    counted = " at most, by its files' sizes (counted before training)" if rank else ""
    return Check(
        name="advice",
        result="warn",
        detail="; ".join(each.why for each in advised) + counted,
        fix=f"set {' and '.join(each.setting for each in advised)}, or keep what you know is right",
    )
