"""The plan: every check's verdict, from the Workspace, this machine and what others said."""

from collections.abc import Callable, Iterator, Sequence

from tasks.contract.artifacts import Check, Plan
from tasks.contract.errors import AddressForbidden, KaitoflowError, Refused
from tasks.contract.words import expect_annotations, without_effect
from tasks.contract.workspace import Workspace
from tasks.nodes.offers import Offer
from tasks.plan import cost, data, image, machine, model, nodes, resource
from tasks.plan.check import checked, from_error
from tasks.plan.findings import Findings
from tasks.plan.size import Range, Run, memory_here_gib, seconds_here, seconds_on
from tasks.platform.base import World
from tasks.platform.ownership import name_taken
from tasks.platform.tolerations import own_tolerations

_NOTHING_ASKED = Findings()


def make_plan(workspace: Workspace, world: World, findings: Findings = _NOTHING_ASKED) -> Plan:
    """Every check's verdict, with the memory, the time and the money that the run is to take."""
    run = _run(workspace, world, findings)
    offers = _offers(workspace)
    memory_gib = memory_here_gib(run, world.node) if run else None
    there_s = _seconds_there(run, offers, findings)
    seconds = there_s if world.is_cluster else seconds_here(run, world.node) if run else None
    price = cost.price_of(workspace, offers, findings, seconds=there_s)
    checks = [
        *_of_the_workspace(workspace, world, findings),
        *_of_this_machine(run, world, memory_gib),
        *_of_nodes(workspace, run, findings, memory_gib=memory_gib),
        cost.time(seconds),
    ]
    if offers:
        checks.append(cost.price(workspace, offers, findings, price))
    if not world.is_cluster:
        checks = [_elsewhere(check) for check in checks]
    return Plan(
        checks=checks,
        memory_gib=memory_gib,
        seconds=seconds,
        price=price,
        unchecked=[*_unchecked(workspace, world, findings)],
    )


def acceptance(plan: Plan) -> str:
    """What is told of a Workspace that is accepted: what was not looked at, and what to mind."""
    minded = [f"{c.name}: {c.detail}; {c.fix}" for c in plan.checks if c.result == "warn"]
    if not minded and not plan.unchecked:
        return "all checks passed"
    unchecked = [f"not checked: {', '.join(plan.unchecked)}"] if plan.unchecked else []
    return "\n".join(["no check failed", *unchecked, *minded])


def _run(workspace: Workspace, world: World, findings: Findings) -> Run | None:
    """What sizes follow from; None without a base model that is known."""
    preset = model.preset_or_none(workspace)
    if preset is None:
        return None
    tokens = data.expected_tokens(workspace, findings) if workspace.tuning else None
    config = model.config_or_none(workspace, world)
    return Run(workspace=workspace, preset=preset, config=config, tokens=tokens)


def _offers(workspace: Workspace) -> tuple[Offer, ...]:
    try:
        return nodes.named_offers(workspace)
    except Refused:
        return ()


def _of_the_workspace(workspace: Workspace, world: World, findings: Findings) -> Iterator[Check]:
    purpose = f"tuning by {workspace.tuning.method}" if workspace.tuning else "inference"
    yield Check(name="schema", result="ok", detail=f"{workspace.api_version}, {purpose}")
    yield from _of_its_words(workspace, world, findings)
    looks: dict[str, Callable[[], Check | str]] = {
        "base model": lambda: model.base_model(workspace, world)
    }
    if workspace.tuning:
        looks |= {
            "parameters": lambda: model.parameters(workspace, world),
            "dataset": lambda: data.dataset(workspace, world, findings),
            "image": lambda: image.image(workspace, world, findings),
        }
    if workspace.secret_names:
        looks["secrets"] = lambda: image.secrets(workspace, world)
    for name, look in looks.items():
        yield checked(name, look)
    for kind, taken in world.taken:
        yield from_error("names", name_taken(kind, taken, workspace), result="fail")


def _of_its_words(workspace: Workspace, world: World, findings: Findings) -> Iterator[Check]:
    """A line where a word is wrong, and one that tells of words without effect."""
    try:
        expect_annotations(workspace)
        own_tolerations(workspace)
    except Refused as error:
        yield from_error("words", error, result="fail")
    config = model.config_or_none(workspace, world)
    notes = config.notes if config else ()
    told = [*without_effect(workspace), *notes, *findings.unknown_variables]
    if told:
        detail = f"no effect here: {'; '.join(dict.fromkeys(told))}"
        yield Check(name="words", result="warn", detail=detail, fix="remove what you do not need")


def _of_this_machine(run: Run | None, world: World, memory_gib: float | None) -> Iterator[Check]:
    port, home = world.port, world.home
    if port is not None:
        yield checked("port", lambda: machine.port(world, port))
    if home:
        yield checked("disk", lambda: machine.disk(run.preset if run else None, home))
    if not world.is_cluster:
        yield checked("memory", lambda: machine.memory(memory_gib, world.node))


def _of_nodes(
    workspace: Workspace, run: Run | None, findings: Findings, *, memory_gib: float | None
) -> Iterator[Check]:
    try:
        offers = nodes.named_offers(workspace)
        yield from _of_the_resource(workspace, run, offers, findings)
        if run and offers:
            yield nodes.gpu_fit(run, offers, findings)
        if run or not workspace.preset:
            yield from filter(None, [nodes.nodes(workspace, memory_gib, findings)])
        yield from filter(None, [nodes.quota(workspace, offers, findings)])
    except KaitoflowError as error:
        yield from_error("nodes", error, result="fail")


def _of_the_resource(
    workspace: Workspace, run: Run | None, offers: Sequence[Offer], findings: Findings
) -> Iterator[Check]:
    """A line for each thing that is asked for and cannot be."""
    rules: tuple[Callable[[], None], ...] = (
        lambda: resource.expect_one_node(workspace),
        lambda: resource.expect_whole_gpus(workspace, offers),
        lambda: resource.expect_machines(workspace, run.preset if run else None, findings),
    )
    for rule in rules:
        try:
            rule()
        except Refused as error:
            yield from_error("resource", error, result="fail")


def _seconds_there(run: Run | None, offers: Sequence[Offer], findings: Findings) -> Range | None:
    """Return the seconds on the first kind of machine that fits."""
    fits = [fit for fit in nodes.known_fits(run, offers) if fit.does_fit] if run else []
    if not (run and fits):
        return None
    return seconds_on(run, fits[0], is_made=findings.provisioner != "byo")


def _elsewhere(check: Check) -> Check:
    """What is said of nodes on one machine is of a cluster, and stops nothing."""
    if check.name not in {"GPU fit", "price", "resource"}:
        return check
    detail = f"on a cluster: {check.detail}"
    if check.name == "resource" or (check.result == "warn" and check.reason):
        return check.model_copy(update={"detail": detail, "result": "warn"})
    return check.model_copy(update={"detail": detail, "result": "ok", "fix": ""})


def _unchecked(workspace: Workspace, world: World, findings: Findings) -> Iterator[str]:
    """What a person may take for checked and is not, with the reason or what would check it."""
    tuning = workspace.tuning
    looks = {
        "the dataset's address": findings.dataset,
        "permission to push": findings.may_push,
        "the cluster's nodes": findings.nodes,
        "the cloud's quota": findings.quotas,
    }
    for name, found in looks.items():
        if isinstance(found, AddressForbidden) or (
            isinstance(found, KaitoflowError) and not isinstance(found, Refused)
        ):
            yield f"{name} ({from_error(name, found, result='warn').detail})"
    if tuning and tuning.output.image and not world.push:
        yield "permission to push (--push)"
    if not world.is_cluster:
        yield "a cluster's Secrets, nodes and quota (--platform kubernetes)"
    elif findings.quotas is None and workspace.resource.instance_type:
        yield "the cloud's quota (KAITOFLOW_PROVISIONER=aks, and whose it is)"
    if tuning:
        yield "the dataset's rows (before training)"
