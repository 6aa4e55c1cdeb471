"""The Jobs of a Workspace on a cluster: which may go on, and how the others end.

That they are made, and followed, is `kubernetes`'s.
"""

import asyncio
from dataclasses import dataclass

from tasks.contract.steps import CANDIDATE, TAGGING, TUNING
from tasks.platform.base import Pod
from tasks.platform.manifests.labels import CANDIDATE_LABEL, GENERATION_LABEL
from tasks.platform.manifests.naming import candidate_config_map_name, job_name, job_names
from tasks.platform.own_objects import OwnObjects
from tasks.platform.ownership import controller_uid
from tasks.platform.wire import Object, has_ended, has_failed, is_complete, name_of

OF_JOBS = (TUNING, CANDIDATE, TAGGING)
"""The pods that a Job makes."""

# How long a Job may take to be told ended after its pod has ended.
_JOB_ENDS_S = 3.0
_LOOK_AGAIN_S = 0.5


@dataclass(frozen=True)
class Jobs:
    """The Jobs that a Workspace controls, with their pods."""

    own: OwnObjects

    async def remove_outdated(self, *, candidate: int | None = None) -> None:
        """No Job but one of this generation that may still end well; and no pod of another.

        A Job that was deleted is gone before its pods are, and two must not push to one tag.
        Args: candidate: whose Job may still end well, too.
        """
        names, kept = {job_name(self.own.workspace)}, set()
        if candidate is not None:
            names.add(job_name(self.own.workspace, CANDIDATE, candidate))
        for job in await self.own.find("Job"):
            if name_of(job) in names and not has_failed(job):
                kept.add(job["metadata"]["uid"])
            else:
                await self._remove(job)
        await self.own.wait_until_gone(names=OF_JOBS, but_of=kept)

    async def remove_lacking(self, pod: Pod) -> None:
        """No Job without a container that is to be followed, as before an annotation was edited."""
        job = await self._of(pod)
        if job is None:
            return
        spec = job["spec"]["template"]["spec"]
        there = {each["name"] for each in [*spec.get("initContainers", []), *spec["containers"]]}
        if not {each.name for each in pod.containers} <= there:
            await self._remove(job)
            await self.own.wait_until_gone(names=(pod.name,))

    async def remove_mute(self, pod: Pod) -> None:
        """No Job that is done and has no pod left, since nobody can say what that one said."""
        job = await self._of(pod)
        if job is None or not is_complete(job):
            return
        pods = await self.own.find("Pod")
        if not any(controller_uid(each) == job["metadata"]["uid"] for each in pods):
            await self._remove(job)

    async def end(self, pod: Pod) -> None:
        """Have the Job of this generation's pod deleted."""
        if job := await self._of(pod):
            await self._remove(job)

    async def end_unfinished(self, *, candidate: int | None = None) -> None:
        """Have the generation's Jobs, or a candidate's, gone with their pods, if not ended.

        One whose pod has just ended for good is given the time to say so: it keeps the pod's log.
        """
        clock, names = asyncio.get_running_loop().time, job_names(self.own.workspace)
        if candidate is not None:
            names = {job_name(self.own.workspace, CANDIDATE, candidate)}
        deadline = clock() + _JOB_ENDS_S
        while True:
            jobs = [each for each in await self.own.find("Job") if name_of(each) in names]
            unfinished = [each for each in jobs if not has_ended(each)]
            if not unfinished:
                return
            if clock() > deadline:
                break
            await asyncio.sleep(_LOOK_AGAIN_S)
        for job in unfinished:
            await self._remove(job)
        await self.own.wait_until_gone(names=OF_JOBS)

    async def remove(self) -> list[str]:
        """Have the generation's Jobs deleted; the names of those that were there."""
        names = job_names(self.own.workspace)
        jobs = [job for job in await self.own.find("Job") if name_of(job) in names]
        return await self.own.remove("Job", jobs)

    async def _of(self, pod: Pod) -> Object | None:
        return await self.own.get("Job", job_name(self.own.workspace, pod.name, pod.candidate))

    async def _remove(self, job: Object) -> None:
        """Have a Job deleted, and what a candidate's was told, which nobody else would remove."""
        labels = job["metadata"].get("labels", {})
        if number := labels.get(CANDIDATE_LABEL):
            made_for = self.own.workspace.of_generation(int(labels[GENERATION_LABEL]))
            told = await self.own.get("ConfigMap", candidate_config_map_name(made_for, int(number)))
            await self.own.remove("ConfigMap", [told] if told else [])
        await self.own.remove("Job", [job])
