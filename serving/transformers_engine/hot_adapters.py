"""The models that an engine answers with: its base, and adapters that come and go while it does.

Any thread asks for a change; the engine's own makes it between two steps, once it may be made.
"""

import functools
import threading
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future
from dataclasses import dataclass

import torch
from transformers.cache_utils import DynamicCache

from serving.engine import AdapterTakenError, ModelGoneError, Served, StoppingError
from serving.model.adapter_names import adapter_key
from serving.model.adapters import weights_digest
from serving.tokens.as_trained import as_trained_of, expect_same_ids, expect_same_scores
from serving.tokens.prompts import Prompts
from serving.transformers_engine.forward import Forward, left_padded
from serving.weights.marker import read_marker
from tasks.contract.as_trained import AsTrained
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
            trained = as_trained_of(source)
            self._prompts.add(source.name, template)
            try:
                if trained:
                    expect_same_ids(source, trained, self._prompts)
                self._change(lambda: self._add(source, trained)).result()
            except BaseException:
                self._prompts.remove(source.name)
                raise
            with self._wake:
                self.models = {**self.models, source.name: served}
        finally:
            self._moving.discard(source.name)

    def _add(self, source: AdapterSource, trained: AsTrained | None) -> None:
        """Have an adapter that can score a token; in the queue its proof would wait for others."""
        self._forward.add(source)
        try:
            self._prove(source, trained)
        except BaseException:
            self._forward.remove(source.name)
            raise

    def expect_as_trained(self) -> None:
        """Nothing if the adapters of the beginning answer as they did where they were tuned.

        Raises: ServedDiffers, AdapterInvalid.
        """
        for source in self._config.adapters:
            if trained := as_trained_of(source):
                expect_same_ids(source, trained, self._prompts)
                self._change(functools.partial(self._prove, source, trained)).result()

    def _prove(self, source: AdapterSource, trained: AsTrained | None) -> None:
        """Score a token behind the trainer's prompts, or any where there are none."""
        prompts = (
            [seen.ids for seen in trained.seen]
            if trained
            else [tuple(self._prompts.encode_text("Hello"))]
        )
        # Not around what is added: weights that are made so cannot be switched.
        with torch.inference_mode():
            scores = self._forward(
                left_padded(prompts),
                lengths=[len(prompt) for prompt in prompts],
                cache=DynamicCache(),
                models=[source.name] * len(prompts),
            )
        _expect_numbers(source, scores)
        if trained:
            logprobs = _likeliest(trained, scores)
            expect_same_scores(source, trained, logprobs, dtype=self._forward.dtype)

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


def _likeliest(trained: AsTrained, scores: torch.Tensor) -> list[dict[int, float]]:
    """The log probabilities that scores [prompts, vocabulary] give to what was likely."""
    logprobs = torch.log_softmax(scores.float(), -1)
    return [
        {token: float(here[token]) for token, _ in seen.likeliest}
        for here, seen in zip(logprobs, trained.seen, strict=True)
    ]


def _expect_numbers(source: AdapterSource, scores: torch.Tensor) -> None:
    if not scores.isfinite().all():
        raise AdapterMismatch(
            f"adapter {source.name} was asked for",
            "its scores for a token are no numbers",
            "tune it again",
        )
