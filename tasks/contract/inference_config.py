"""inference_config.yaml, KAITO's settings of a server: flags of vLLM, read flag by flag. Pure.

`vllm_flags.yaml` says of each flag what becomes of it.
"""

import difflib
import functools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any, Literal

import yaml

from tasks.contract.errors import InvalidWorkspace
from tasks.contract.strict_yaml import load_document, problem_in

INFERENCE_CONFIG_KEY = "inference_config.yaml"

Flags = Mapping[str, str | None]

_SECTION = "vllm"
# Beside the flags; of KAITO's own program around vLLM.
_OF_KAITO = {
    "max_probe_steps": "vLLM finds the longest context that fits by itself (max-model-len: auto)",
    "kv_cache_cpu_memory_utilization": "the KV cache is kept on the GPU; vLLM's kv-offloading-size,"
    " in GiB, keeps more of it in the machine's memory",
}
_DOES_NOTHING = (None, 0, "0", "")


@dataclass(frozen=True)
class _Rule:
    """What becomes of a flag; why and fix: of one that is refused, or that does nothing."""

    verdict: Literal["passed", "refused", "none"]
    why: str = ""
    fix: str = ""


@dataclass(frozen=True, kw_only=True)
class InferenceConfig:
    """Settings of a server.

    flags: of vLLM, by name; None = one without a value. notes: what does nothing, and why.
    """

    flags: Flags = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def number(self, flag: str) -> int | None:
        """The whole number that a flag gives; None = it does not. Raises: InvalidWorkspace."""
        text = self.flags.get(flag)
        if text is None:
            return None
        try:
            return int(text)
        except ValueError:
            raise InvalidWorkspace(
                f"{INFERENCE_CONFIG_KEY} sets {flag} to {text!r}",
                "that is no whole number",
                "write one, or leave it out",
            ) from None


def parse_inference_config(text: str | None) -> InferenceConfig:
    """What the text of an inference_config.yaml asks for; None = there is none.

    Raises: InvalidWorkspace: it is no such text, or has a flag that is refused or not there.
    """
    if text is None:
        return InferenceConfig()
    document = _document(text)
    notes = [
        f"{name}: {_OF_KAITO[name]}"
        for name, value in document.items()
        if name in _OF_KAITO and value not in _DOES_NOTHING
    ]
    if unknown := [name for name in document if name not in _OF_KAITO and name != _SECTION]:
        raise InvalidWorkspace(
            f"{INFERENCE_CONFIG_KEY} has the key {unknown[0]!r}",
            "there is none of that name",
            f"write flags of vLLM below {_SECTION}:",
        )
    section = document.get(_SECTION) or {}
    if not isinstance(section, dict):
        raise InvalidWorkspace(
            f"{INFERENCE_CONFIG_KEY} has something else than flags below {_SECTION}",
            f"it is {section!r:.60}",
            "write each flag in a line of its own, as max-model-len: 8192",
        )
    flags: dict[str, str | None] = {}
    for written, value in section.items():
        name = str(written).replace("_", "-").removeprefix("--")
        rule = _rule_of(name)
        if rule.verdict == "none":
            notes.append(f"{_SECTION}.{name}: {rule.why}")
        elif value is not None:
            flags |= _flag(name, value)
    return InferenceConfig(flags=flags, notes=tuple(notes))


def _document(text: str) -> dict[str, Any]:
    try:
        document = load_document(text)
    except yaml.YAMLError as error:
        raise InvalidWorkspace(
            f"{INFERENCE_CONFIG_KEY} was to be read as YAML", problem_in(error), "correct the text"
        ) from None
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise InvalidWorkspace(
            f"{INFERENCE_CONFIG_KEY} was to be read",
            "it holds no names with values",
            f"write flags of vLLM below {_SECTION}:",
        )
    return document


def _rule_of(name: str) -> _Rule:
    """What becomes of a flag; `--no-` and the parts behind a dot are of the same flag.

    Raises: InvalidWorkspace: it is refused, or there is none.
    """
    rules, plain = _rules(), name.partition(".")[0]
    rule = rules.get(plain) or rules.get(plain.removeprefix("no-"))
    if rule is None:
        near = difflib.get_close_matches(plain, list(rules), n=1)
        raise InvalidWorkspace(
            f"{INFERENCE_CONFIG_KEY} sets {_SECTION}.{name}",
            "vLLM has no such flag",
            f"write {near[0]}, or leave it out" if near else "leave it out",
        )
    if rule.verdict == "refused":
        raise InvalidWorkspace(f"{INFERENCE_CONFIG_KEY} sets {_SECTION}.{name}", rule.why, rule.fix)
    return rule


def _flag(name: str, value: Any) -> Flags:
    """A flag as vLLM's command line has it; yes and no are flags without a value there."""
    if value is True or value == "true":
        return {name: None}
    if value is False or value == "false":
        return {f"no-{name}": None}
    if isinstance(value, dict | list):
        return {name: json.dumps(value)}
    return {name: str(value)}


@functools.cache
def _rules() -> Mapping[str, _Rule]:
    return dict(_written())


def _written() -> Iterator[tuple[str, _Rule]]:
    text = files(__package__).joinpath("vllm_flags.yaml").read_text(encoding="utf-8")
    table: dict[str, Any] = yaml.safe_load(text)
    for name in table["passed"].split():
        yield name, _Rule("passed")
    for group in table["refused"]:
        for name in group["flags"].split():
            yield name, _Rule("refused", group["why"], group["fix"])
    for group in table["none"]:
        for name in group["flags"].split():
            yield name, _Rule("none", group["why"])


def flags_by_verdict() -> Mapping[str, str]:
    """Each flag that is known, with `passed`, `refused` or `none`."""
    return {name: rule.verdict for name, rule in _rules().items()}
