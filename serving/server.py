"""What the routes share: the engine once it is there, and the names that it answers to."""

import time
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

from fastapi import Request

from serving.api.answers import Answering
from serving.canary import HEADER, wish_of
from serving.engine import Engine
from serving.errors import ApiError, stopping
from serving.metrics import Metrics
from serving.versions import Versions
from tasks.contract.programs.serving import ServerConfig


@dataclass
class Server:
    """One server; it has no engine while the model loads.

    is_leaving: it was told to stop, and takes no request more.
    """

    config: ServerConfig
    metrics: Metrics
    engine: Engine | None = None
    is_leaving: bool = False
    created_s: int = field(default_factory=lambda: int(time.time()))
    _versions: Versions | None = None

    def ready_engine(self) -> Engine:
        """The engine. Raises: ApiError 503 while there is none, and once the server leaves."""
        if self.is_leaving:
            raise stopping()
        if self.engine is None:
            raise ApiError(
                503,
                f"{self.config.served_model_name} is being loaded; ask again in a few seconds",
                headers={"Retry-After": "5"},
            )
        return self.engine

    def ready_versions(self) -> Versions:
        """The names of the engine. Raises: ApiError 503 while there is none."""
        if self._versions is None:
            self._versions = Versions(self.config, self.ready_engine(), self.metrics)
        return self._versions

    def answering(
        self, request: Request, asked: str | None
    ) -> AbstractAsyncContextManager[Answering]:
        """Who answers a request that names this model, or none. Raises: ApiError."""
        wish = wish_of(request.headers.get(HEADER))
        return self.ready_versions().answering(asked, wish=wish)
