"""Clients that ask a server without a pause, and notice each answer that they should not get."""

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field

import httpx2

from tests.serving.hot import KEY

PROMPTS = ("What does len do?", "Name a colour.", "Say hello.", "Count to three.")


@dataclass
class Load:
    """What the clients were answered, held against which versions might answer at the time."""

    client: httpx2.AsyncClient
    name: str = "mine"
    """The model that they ask for."""
    allowed: list[tuple[float, frozenset[str]]] = field(default_factory=list)
    answered: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    texts: dict[tuple[str, str], str] = field(default_factory=dict)
    is_over: bool = False

    async def learn(self, version: str) -> None:
        """What a version that is loaded says alone, before anybody else asks."""
        for prompt in PROMPTS:
            response = await self.ask(version, prompt)
            self.texts[version, prompt] = response.json()["choices"][0]["message"]["content"]

    def allow(self, *versions: str) -> None:
        self.allowed.append((time.monotonic(), frozenset(versions)))

    def allowed_between(self, start_s: float, end_s: float) -> frozenset[str]:
        ends = [since_s for since_s, _ in self.allowed[1:]] + [float("inf")]
        spans = zip(self.allowed, ends, strict=True)
        may = [
            versions for (since_s, versions), end in spans if since_s <= end_s and end >= start_s
        ]
        return frozenset().union(*may)

    async def ask(self, model: str, prompt: str) -> httpx2.Response:
        messages = [{"role": "user", "content": prompt}]
        body = {"model": model, "messages": messages, "max_tokens": 6, "temperature": 0}
        return await self.client.post("/v1/chat/completions", json=body)

    async def go_on(self, number: int) -> None:
        while not self.is_over:
            prompt, start_s = PROMPTS[number % len(PROMPTS)], time.monotonic()
            response = await self.ask(self.name, prompt)
            if response.status_code != 200:
                self.wrong.append(f"{response.status_code} {response.text}")
                continue
            version = response.headers["x-kaitoflow-generation"]
            said = response.json()["choices"][0]["message"]["content"]
            self.answered[version] += 1
            if version not in self.allowed_between(start_s, time.monotonic()):
                self.wrong.append(f"{version} answered, which was not to")
            if said != self.texts[version, prompt]:
                self.wrong.append(f"{version} said {said!r}")

    async def admin(self, path: str, **body: object) -> httpx2.Response:
        response = await self.client.post(path, json=body, headers=KEY)
        assert response.status_code == 200, response.text
        return response

    async def load(self, name: str, path: str) -> float:
        start_s = time.monotonic()
        await self.admin("/v1/load_lora_adapter", lora_name=name, lora_path=path)
        return time.monotonic() - start_s

    async def move(self, path: str, *, before: str, after: str, **body: object) -> None:
        """Move the name; while it is being moved either version may answer."""
        self.allow(before, after)
        await self.admin(path, name=self.name, **body)
        self.allow(after)

    async def until_more(self, version: str, requests: int = 16) -> None:
        had = self.answered[version]
        while self.answered[version] < had + requests and not self.wrong:
            await asyncio.sleep(0.05)
