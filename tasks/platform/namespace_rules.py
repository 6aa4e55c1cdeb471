"""What a namespace lets its pods have: its ResourceQuotas and LimitRanges. Pure.

Read before anything is bought: what follows from them is kept where it can be, and told where not.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tasks.contract.errors import PodForbidden, QuotaExceeded
from tasks.contract.quantity import parse_quantity, quantity
from tasks.contract.resources import Amount, Resources
from tasks.platform.diagnosis.verdict import Diagnosis, verdict
from tasks.platform.wire import Seen, name_of

_GIB = 2**30
# A tenant's quota is shared: what a container needs is its own, beyond that it takes a quarter.
_SHARE_OF_QUOTA = 0.25
# That a quota counts only when each container names them.
_COMPUTE = ("cpu", "memory", "ephemeral-storage")
_ANNOTATIONS = {name: f"kaitoflow.io/{name}" for name in _COMPUTE}
_ENDED = {"Succeeded", "Failed"}

Usage = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class NamespaceRules:
    """The objects, as the API server gives them."""

    quotas: Sequence[Seen] = ()
    limit_ranges: Sequence[Seen] = ()


def fitted(resources: Resources, rules: NamespaceRules) -> Resources:
    """What a pod's containers ask for, and limits that the namespace asks for and allows."""
    return Resources(
        cpu_cores=_fitted(resources.cpu_cores, rules, "cpu", unit=1),
        memory_gib=_fitted(resources.memory_gib, rules, "memory", unit=_GIB),
        disk_gib=_fitted(resources.disk_gib, rules, "ephemeral-storage", unit=_GIB),
    )


def _fitted(amount: Amount, rules: NamespaceRules, name: str, *, unit: float) -> Amount:
    bounds = [each for kind in ("Container", "Pod") for each in _limits(rules, kind)]
    least = [parse_quantity(v) / unit for b in bounds if (v := _of(b, "min", name)) is not None]
    asked = max([amount.asked, *least])
    shares = [hard * _SHARE_OF_QUOTA / unit for hard in _hard(rules, f"limits.{name}")]
    most = [parse_quantity(v) / unit for b in bounds if (v := _of(b, "max", name)) is not None]
    if amount.most is None:
        # Without a limit of its own, a container would be given this one.
        given = (_of(bound, "default", name) for bound in bounds)
        most += [parse_quantity(value) / unit for value in given if value is not None]
    ratios = (_of(bound, "maxLimitRequestRatio", name) for bound in bounds)
    most += [asked * parse_quantity(ratio) for ratio in ratios if ratio is not None]
    bound = min([*([] if amount.most is None else [amount.most]), *shares, *most], default=None)
    return replace(amount, asked=asked, most=None if bound is None else max(asked, bound))


def _limits(rules: NamespaceRules, kind: str) -> Iterator[Seen]:
    for each in rules.limit_ranges:
        for limit in (each.get("spec") or {}).get("limits") or ():
            if limit.get("type") == kind:
                yield limit


def _of(limit: Seen, bound: str, name: str) -> Any:
    return (limit.get(bound) or {}).get(name)


def _hard(rules: NamespaceRules, name: str) -> list[float]:
    found = ((quota.get("spec") or {}).get("hard") or {} for quota in rules.quotas)
    return [parse_quantity(hard[name]) for hard in found if name in hard]


def refusals(
    pod: Seen, rules: NamespaceRules, *, beside: Iterable[Seen], alike: int = 1
) -> list[Diagnosis]:
    """Why the namespace would not let a pod in; empty = it would, as far as its rules say.

    Args: beside: pods that count now, and will be gone when this one comes. alike: how many of them
    come at once.
    """
    pod = _with_defaults(pod, rules)
    found = [*_of_limit_ranges(pod, rules)]
    released = _sum(_usage(each) for each in beside if _phase(each) not in _ENDED)
    for quota in rules.quotas:
        if _is_counted(quota, pod):
            found += _of_quota(pod, quota, released, alike=alike)
    return found


def _with_defaults(pod: Seen, rules: NamespaceRules) -> Seen:
    """The pod as the API server takes it: with a LimitRange's amounts where it names none."""
    limits: dict[str, Any] = {}
    requests: dict[str, Any] = {}
    for each in _limits(rules, "Container"):
        limits = dict(each.get("default") or {}) | limits
        requests = dict(each.get("defaultRequest") or {}) | requests
    spec = dict(pod["spec"])
    for kind in ("initContainers", "containers"):
        spec[kind] = [_filled(each, requests, limits) for each in spec.get(kind) or ()]
    return {**pod, "spec": spec}


def _filled(container: Seen, requests: Seen, limits: Seen) -> Seen:
    given = container.get("resources") or {}
    own_limits = given.get("limits") or {}
    return {
        **container,
        "resources": {
            "requests": {**requests, **own_limits, **(given.get("requests") or {})},
            "limits": {**limits, **own_limits},
        },
    }


def _of_quota(pod: Seen, quota: Seen, released: Usage, *, alike: int) -> Iterator[Diagnosis]:
    hard = (quota.get("spec") or {}).get("hard") or {}
    used = (quota.get("status") or {}).get("used") or {}
    usage = _usage(pod)
    if lacking := _lacking(pod, hard):
        yield _forbidden(
            pod,
            found=f"ResourceQuota {name_of(quota)} asks every container for {lacking}",
            fix="give each container of inference.template its requests and limits",
        )
        return
    for name, text in hard.items():
        needed, most = alike * usage.get(name, 0.0), parse_quantity(text)
        left = most - max(0.0, parse_quantity(used.get(name, 0)) - released.get(name, 0.0))
        if needed > max(0.0, left):
            yield _exceeded(pod, quota, name, needed=needed, left=left, most=most)


def _exceeded(
    pod: Seen, quota: Seen, name: str, *, needed: float, left: float, most: float
) -> Diagnosis:
    never = needed > most
    raising = f"raise ResourceQuota {name_of(quota)}"
    lowering = _ANNOTATIONS.get(name.rpartition(".")[2])
    ways = [raising] if never else ["wait until others have ended", raising]
    ways += [f"ask for less by annotation {lowering}"] if lowering else []
    return verdict(
        QuotaExceeded,
        asked=f"pod {_title(pod)} asks for {quantity(needed)} of {name}",
        found=f"ResourceQuota {name_of(quota)} has {quantity(max(0.0, left))} left of "
        f"{quantity(most)}",
        fix=", or ".join(ways),
        is_final=never,
    )


def _lacking(pod: Seen, hard: Mapping[str, Any]) -> str:
    """What the quota counts, and a container does not name."""
    lacking = []
    for name in hard:
        kind, _, resource = name.rpartition(".")
        if resource not in _COMPUTE or kind not in {"", "requests", "limits"}:
            continue
        side = kind or "requests"
        if any(resource not in _side(each, side) for each in _containers(pod)):
            lacking.append(f"{side}.{resource}")
    return " and ".join(dict.fromkeys(lacking))


def _of_limit_ranges(pod: Seen, rules: NamespaceRules) -> Iterator[Diagnosis]:
    for limit_range in rules.limit_ranges:
        for limit in _limits(replace(rules, limit_ranges=(limit_range,)), "Container"):
            for container in _containers(pod):
                yield from _out_of_bounds(pod, container, limit, limit_range)


def _out_of_bounds(
    pod: Seen, container: Seen, limit: Seen, limit_range: Seen
) -> Iterator[Diagnosis]:
    requests, limits = _side(container, "requests"), _side(container, "limits")
    for name in _COMPUTE:
        given = [v for v in (requests.get(name), limits.get(name)) if v is not None]
        most, least = _of(limit, "max", name), _of(limit, "min", name)
        too_much = [v for v in given if most is not None and v > parse_quantity(most)]
        too_little = [v for v in given if least is not None and v < parse_quantity(least)]
        if not (too_much or too_little):
            continue
        bound = f"at most {most}" if too_much else f"at least {least}"
        yield _forbidden(
            pod,
            what=f"container {container['name']} with {quantity((too_much or too_little)[0])} of "
            f"{name}",
            found=f"LimitRange {name_of(limit_range)} allows {bound}",
            fix=f"ask for what it allows by annotation {_ANNOTATIONS[name]}, or change the "
            "LimitRange",
        )


def _forbidden(pod: Seen, *, found: str, fix: str, what: str = "its containers") -> Diagnosis:
    asked = f"pod {_title(pod)} was to be made, {what}"
    return verdict(PodForbidden, asked=asked, found=found, fix=fix, is_final=True)


def _is_counted(quota: Seen, pod: Seen) -> bool:
    """Whether a quota counts the pod: by its scopes, as the API server's evaluator does."""
    spec = quota.get("spec") or {}
    wanted = [{"scopeName": name, "operator": "Exists"} for name in spec.get("scopes") or ()]
    wanted += (spec.get("scopeSelector") or {}).get("matchExpressions") or ()
    return all(_is_in_scope(each, pod) for each in wanted)


def _is_in_scope(scope: Seen, pod: Seen) -> bool:
    match scope.get("scopeName"):
        case "Terminating":
            return "activeDeadlineSeconds" in pod["spec"]
        case "NotTerminating":
            return "activeDeadlineSeconds" not in pod["spec"]
        case "BestEffort":
            return _is_best_effort(pod)
        case "NotBestEffort":
            return not _is_best_effort(pod)
        case "PriorityClass":
            name, values = pod["spec"].get("priorityClassName", ""), scope.get("values") or ()
            return {
                "In": name in values,
                "NotIn": name not in values,
                "Exists": bool(name),
                "DoesNotExist": not name,
            }.get(str(scope.get("operator")), False)
        case _:
            return False


def _is_best_effort(pod: Seen) -> bool:
    named = {
        name
        for each in _containers(pod)
        for side in ("requests", "limits")
        for name in _side(each, side)
    }
    return not named & {"cpu", "memory"}


def _usage(pod: Seen) -> Usage:
    """What a quota counts of a pod: containers together, or the largest that comes before them."""
    usage: Usage = {"pods": 1.0, "count/pods": 1.0}
    for side in ("requests", "limits"):
        together = _sum(_side(each, side) for each in pod["spec"].get("containers") or ())
        first = [_side(each, side) for each in pod["spec"].get("initContainers") or ()]
        for name in {*together, *(name for each in first for name in each)}:
            amount = max([together.get(name, 0.0), *(each.get(name, 0.0) for each in first)])
            usage[f"{side}.{name}"] = amount
            if side == "requests" and name in _COMPUTE:
                usage[name] = amount
    return usage


def _containers(pod: Seen) -> Iterator[Seen]:
    yield from pod["spec"].get("initContainers") or ()
    yield from pod["spec"].get("containers") or ()


def _side(container: Seen, side: str) -> Usage:
    """A container's requests, or limits, as numbers."""
    given = (container.get("resources") or {}).get(side) or {}
    return {name: parse_quantity(amount) for name, amount in given.items()}


def _sum(usages: Iterable[Mapping[str, float]]) -> Usage:
    total: Usage = {}
    for usage in usages:
        for name, amount in usage.items():
            total[name] = total.get(name, 0.0) + amount
    return total


def _title(pod: Seen) -> str:
    """Its name, or the beginning of the one that it will get."""
    meta = pod["metadata"]
    return str(meta.get("name") or meta.get("generateName", "").rstrip("-"))


def _phase(pod: Seen) -> str:
    return str((pod.get("status") or {}).get("phase", ""))
