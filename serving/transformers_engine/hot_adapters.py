"""The models that an engine answers with: its base, and adapters that come and go while it does.

Any thread asks for a change; the engine's own makes it between two steps, once it may be made.
"""

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import torch
from transformers.cache_utils import DynamicCache

from serving.engine import AdapterTakenError, ModelGoneError, Served, StoppingError
from serving.model.adapters import adapter_key, weights_digest
from serving.transformers_engine.forward import Forward
from serving.transformers_engine.prompts import Prompts
from serving.weights.marker import read_marker
from tasks.contract.errors import AdapterMismatch
from tasks.contract.programs.serving import AdapterSource, ServerConfig


@dataclass(frozen=True)
class _Change:
    """What is done to the model between two steps, once it may be."""

    act: Callable[[], None]
    is_due: Callable[[], bool]
    done: "Future[None]"


class HotAdapters:
    """Which models there are, and the changes to them that wait for the engine's thread."""

    def __init__(
        self,
        config: ServerConfig,
        *,
        forward: Forward,
        prompts: Prompts,
        wake: threading.Condition,
        used: Callable[[], Collection[str]],
    ) -> None:
        """wake: the engine's lock, told of a change. used: models of continuations in sight."""
        self._config = config
        self._base = config.served_model_name
        self._forward = forward
        self._prompts = prompts
        self._wake = wake
        self._used = used
        self.models: Mapping[str, Served] = {self._base: Served(parent=None)} | {
            source.name: self._served(source) for source in config.adapters
        }
        self._changes: list[_Change] = []
        self._moving: set[str] = set()  # adapters on their way in or out: their names are taken
        self._stopped: StoppingError | None = None

    def _served(self, source: AdapterSource) -> Served:
        return Served(parent=self._base, digest=weights_digest(source.path))

    def load(self, source: AdapterSource) -> None:
        """Have one adapter more, which has scored a token. Raises: as `Engine.load_adapter`."""
        with self._wake:
            taken = map(adapter_key, [*self.models, *self._moving])
            if adapter_key(source.name) in taken:
                raise AdapterTakenError(source.name)
            self._moving.add(source.name)
        try:
            self._forward.check(source, marker=read_marker(self._config.weights_dir))
            template = self._prompts.template_of(source)
            served = self._served(source)  # reads the file, so that the engine finds it in memory
            prompt_ids = self._prompts.encode_text("Hello")
            self._change(lambda: self._add(source, prompt_ids)).result()
            self._prompts.add(source.name, template)
            with self._wake:
                self.models = {**self.models, source.name: served}
        finally:
            self._moving.discard(source.name)

    def _add(self, source: AdapterSource, prompt_ids: Sequence[int]) -> None:
        """Have an adapter that can score a token; in the queue its proof would wait for others."""
        self._forward.add(source)
        try:
            with (
                torch.inference_mode()
            ):  # not around what is added: such weights cannot be switched
                scores = self._forward(
                    [prompt_ids],
                    lengths=[len(prompt_ids)],
                    cache=DynamicCache(),
                    models=[source.name],
                )
            _expect_numbers(source, scores)
        except BaseException:
            self._forward.remove(source.name)
            raise

    def unload(self, name: str) -> "Future[None]":
        """Have an adapter no more, once nothing is of it. Raises: ModelGoneError."""
        with self._wake:
            if name == self._base or name not in self.models:
                raise ModelGoneError(name)
            self.models = {key: each for key, each in self.models.items() if key != name}
            self._moving.add(name)

        def remove() -> None:
            self._forward.remove(name)
            self._prompts.remove(name)
            self._moving.discard(name)

        return self._change(remove, is_due=lambda: name not in self._used())

    def _change(
        self, act: Callable[[], None], *, is_due: Callable[[], bool] = lambda: True
    ) -> "Future[None]":
        change = _Change(act, is_due, Future())
        change.done.set_running_or_notify_cancel()  # nobody who stops waiting stops the change
        with self._wake:
            if self._stopped:
                change.done.set_exception(self._stopped)
            else:
                self._changes.append(change)
                self._wake.notify()
        return change.done

    def due(self) -> list[_Change]:
        """The changes that may be made now."""
        return [change for change in self._changes if change.is_due()]

    def make_due_changes(self) -> None:
        """Do what is due to the model; rows in work keep their adapters and what they remember."""
        with self._wake:
            due = self.due()
            self._changes = [change for change in self._changes if change not in due]
        for change in due:
            try:
                change.act()
            except Exception as error:  # noqa: BLE001 - told to whoever asked for the change
                change.done.set_exception(error)
            else:
                change.done.set_result(None)

    def stop(self, error: StoppingError) -> None:
        """Make no change any more; who waits for one is told so."""
        with self._wake:
            self._stopped = error
            changes, self._changes = self._changes, []
        for change in changes:
            change.done.set_exception(error)


def _expect_numbers(source: AdapterSource, scores: torch.Tensor) -> None:
    if not scores.isfinite().all():
        raise AdapterMismatch(
            f"adapter {source.name} was asked for",
            "its scores for a token are no numbers",
            "tune it again",
        )
