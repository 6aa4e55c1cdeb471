"""Which of the Secrets and volume claims that a Workspace names its run needs. Pure.

A run that tunes needs all of them. One that only brings back what was tuned reads no dataset and
pushes nothing: what it does without is not to keep a model away.
"""

from dataclasses import dataclass

from tasks.contract.workspace import Workspace

# What `World.faults` are of: a kind and a name.
Named = tuple[str, str]


@dataclass(frozen=True)
class Needs:
    """What a run needs, of all that is named: everything but what it does without."""

    without: frozenset[Named]

    def __contains__(self, about: Named) -> bool:
        return about not in self.without


ALL = Needs(frozenset())


def needs_of(workspace: Workspace, *, is_tuned: bool, moves_tag: bool) -> Needs:
    """What the run of a Workspace needs.

    Args: is_tuned: what it serves was tuned before. moves_tag: the tag of its image, which names
    another adapter by now, is to name it again.
    """
    if not (is_tuned and workspace.tuning):
        return ALL
    tuning, hub = workspace.tuning, workspace.tuning.preset.preset_options.model_access_secret
    secrets = {*tuning.input.image_pull_secrets} | ({workspace.push_secret} - {""})
    needed = {hub} | ({workspace.push_secret} if moves_tag else set())
    dataset, adapter = (
        ((source or {}).get("persistentVolumeClaim") or {}).get("claimName")
        for source in (tuning.input.volume_source, tuning.output.volume_source)
    )
    unread = {("Secret", name) for name in secrets - needed}
    if dataset and dataset != adapter:
        unread.add(("PersistentVolumeClaim", dataset))
    return Needs(frozenset(unread))
