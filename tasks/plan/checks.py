"""The plan: every check's verdict, from the Workspace, this machine and what others said."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from tasks.contract.artifacts import Check, Plan, Swap, Tuned
from tasks.contract.continuing import CONTINUE_ANNOTATION
from tasks.contract.errors import (
    AddressForbidden,
    KaitoflowError,
    NoRoomToTune,
    Refused,
    SecretNotFound,
)
from tasks.contract.evaluation_data import EVALUATION_DATA_ANNOTATION, evaluation_url
from tasks.contract.gate_command import expect_runnable, gate_command_or_none
from tasks.contract.judge import Judge, judge_of
from tasks.contract.retuning import (
    PROMOTION_ANNOTATION,
    expect_retunable,
    moves_adapters,
    tries_candidates_out,
)
from tasks.contract.words import expect_annotations, without_effect
from tasks.contract.workspace import Workspace
from tasks.nodes.need import is_bypassed, need_of
from tasks.nodes.offers import Offer
from tasks.nodes.provisioner import NodeNeed
from tasks.plan import (
    cost,
    data,
    gate,
    image,
    judge,
    machine,
    model,
    needs,
    nodes,
    resource,
    serving,
    start,
    swap,
    together,
    tuned,
    weights,
)
from tasks.plan.advice import advice
from tasks.plan.check import checked, from_diagnosis, from_error
from tasks.plan.findings import Findings
from tasks.plan.rehearsal import cluster_rules
from tasks.plan.size import Range, Run, memory_here_gib, seconds_here, seconds_on
from tasks.platform.base import World
from tasks.platform.manifests.naming import admin_key_secret
from tasks.platform.ownership import name_taken
from tasks.platform.passed_on import pod_annotations, pod_labels
from tasks.platform.tolerations import own_tolerations
from tasks.presets import Preset

_NOTHING_ASKED = Findings()


def make_plan(
    workspace: Workspace,
    world: World,
    findings: Findings = _NOTHING_ASKED,
    *,
    is_candidate: bool = False,
) -> Plan:
    """Every check's verdict, with the memory, the time and the money that the run is to take.

    Args: is_candidate: another adapter is tuned for the generation that was tuned, from new data.
    """
    if not workspace.metadata.uid:
        workspace = workspace.of_generation(0)  # a file's: which one it is to be is not known yet
    run = _run(workspace, world, findings)
    offers = _offers(workspace)
    memory_gib = memory_here_gib(run, world.node) if run else None
    training = tuned.training(workspace, world)
    known = None if is_candidate else tuned.tuned_before(workspace, world, findings)
    to_tune = run if not known else None
    there_s = _seconds_there(to_tune, offers, findings)
    seconds = there_s
    if not world.is_cluster:
        seconds = seconds_here(to_tune, world.node) if to_tune else None
    price = cost.price_of(workspace, offers, findings, seconds=there_s)
    chosen, told = None, list[Check]()
    if not known:
        chosen, told = _swap(
            workspace, world, findings, memory_gib=memory_gib, is_candidate=is_candidate
        )
    need = partial(
        need_of,
        workspace,
        memory_gib=memory_gib,
        server_ends=chosen in (None, Swap.PAUSE),
        is_candidate=is_candidate,
    )
    checks = [
        *_of_the_workspace(workspace, world, findings, known),
        *_of_the_server(workspace, run, world, offers),
        *told,
        *_of_this_machine(run, world, memory_gib),
    ]
    if to_tune and (advised := advice(to_tune)):
        checks.append(advised)
    # What nodes are needed is read from words that may have been refused already.
    refused = {(check.reason, check.detail) for check in checks if check.result == "fail"}
    of_nodes = _of_nodes(workspace, run, findings, need)
    checks += [check for check in of_nodes if (check.reason, check.detail) not in refused]
    if findings.rehearsal is not None and not isinstance(findings.rehearsal, KaitoflowError):
        checks += cluster_rules(
            findings.rehearsal, is_tuned=known is not None, makes_nodes=findings.makes_nodes
        )
    if workspace.tuning and not known:
        checks.append(cost.time(seconds))
        makes_nodes = findings.makes_nodes
        if told_budget := cost.budget(workspace, price, makes_nodes=makes_nodes, seconds=there_s):
            checks.append(told_budget)
    if offers:
        checks.append(cost.price(workspace, offers, findings, price))
    if not world.is_cluster:
        checks = [_elsewhere(check) for check in checks]
    return Plan(
        checks=checks,
        memory_gib=memory_gib,
        dataset_gib=data.dataset_gib(workspace, findings),
        seconds=seconds,
        price=price,
        unchecked=[*_unchecked(workspace, world, findings, known)],
        training=training or (known.training if known else ""),
        tuned=known,
        comes_back=_comes_back(known, world),
        swap=chosen,
    )


def _comes_back(known: Tuned | None, world: World) -> bool:
    """Whether what is not tuned again is not what was tuned last either."""
    return known is not None and known is not world.tuned


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
    if isinstance(findings.base_model, Preset):
        preset = findings.base_model
    tokens = data.expected_tokens(workspace, findings) if workspace.tuning else None
    config = model.config_or_none(workspace, world)
    return Run(
        workspace=workspace,
        preset=preset,
        config=config,
        tokens=tokens,
        shares_gpus=findings.provisioner == "byo",
    )


def _offers(workspace: Workspace) -> tuple[Offer, ...]:
    try:
        return nodes.named_offers(workspace)
    except Refused:
        return ()


def _of_the_workspace(
    workspace: Workspace, world: World, findings: Findings, known: Tuned | None
) -> Iterator[Check]:
    purpose = f"tuning by {workspace.tuning.method}" if workspace.tuning else "inference"
    yield Check(name="schema", result="ok", detail=f"{workspace.api_version}, {purpose}")
    yield from _of_its_words(workspace, world, findings)
    comes_back = _comes_back(known, world)
    looks: dict[str, Callable[[], Check | str]] = {
        "base model": lambda: model.base_model(workspace, world, findings.base_model)
    }
    if (found := findings.weights) is not None:
        looks["weights"] = lambda: weights.weights(found)
    if known:
        # Its dataset may be gone by now, and nothing is pushed: neither is asked for any more.
        looks["tuning"] = lambda: known.why(tuned.training(workspace, world))
        if comes_back and known.image:
            looks["image"] = lambda: image.image(workspace, world, findings)
    elif workspace.tuning:
        looks |= {
            "parameters": lambda: model.parameters(workspace, world, findings),
            "dataset": lambda: data.dataset(workspace, world, findings),
            "image": lambda: image.image(workspace, world, findings),
        }
        if CONTINUE_ANNOTATION in workspace.metadata.annotations:
            looks["start"] = lambda: start.start(workspace, world, findings)
    needed = needs.needs_of(workspace, is_tuned=known is not None, moves_tag=comes_back)
    if workspace.secret_names:
        looks["secrets"] = lambda: image.secrets(workspace, world, needed)
    for name, look in looks.items():
        yield checked(name, look)
    for check in _of_candidates(workspace, world, findings):
        # What serves is not to stay away for what the next candidate will need.
        yield _minded(check) if known else check
    for about, fault in world.faults.items():
        name = "secrets" if about[0] == "Secret" else "volumes"
        yield from_diagnosis(name, fault, stops=fault.is_final and about in needed)
    for kind, taken in world.taken:
        yield from_error("names", name_taken(kind, taken, workspace), result="fail")


def _of_candidates(workspace: Workspace, world: World, findings: Findings) -> Iterator[Check]:
    """A line of each that only adapters which follow the first will need."""
    if lacks_key := _lack_of_admin_key(workspace, world):
        yield lacks_key
    if workspace.tuning and EVALUATION_DATA_ANNOTATION in workspace.metadata.annotations:
        yield checked("evaluation", lambda: _evaluation(workspace, world, findings))
    if asked := _judge(workspace):
        yield checked("judge", lambda: judge.judge(workspace, asked, world, findings))
    command = gate_command_or_none(workspace.metadata.annotations) if workspace.tuning else None
    if command:
        yield checked("gate", partial(gate.gate, command, findings))


def _evaluation(workspace: Workspace, world: World, findings: Findings) -> Check:
    """Where the rows are that a user has set aside.

    Raises: InvalidWorkspace, DatasetUnreachable.
    """
    url = evaluation_url(workspace.metadata.annotations)
    assert url
    return data.evaluation(url, model.config_or_none(workspace, world), world, findings)


def _of_the_server(
    workspace: Workspace, run: Run | None, world: World, offers: Sequence[Offer]
) -> Iterator[Check]:
    """A line on what serves, if something does and its model is known."""
    if run and workspace.is_served:
        yield checked("engine", lambda: serving.engine(workspace, world, run, offers))


def _judge(workspace: Workspace) -> Judge | None:
    """Who judges the Workspace's candidates; one that cannot be read is a wrong word."""
    try:
        return judge_of(workspace.metadata.annotations) if workspace.tuning else None
    except Refused:
        return None


def _of_its_words(workspace: Workspace, world: World, findings: Findings) -> Iterator[Check]:
    """A line where a word is wrong, and one that tells of words without effect."""
    try:
        expect_annotations(workspace)
        own_tolerations(workspace)
        pod_labels(workspace)
        pod_annotations(workspace)
        expect_retunable(workspace)
        if command := gate_command_or_none(workspace.metadata.annotations):
            allow = world.allow_commands
            expect_runnable(command, is_cluster=world.is_cluster, allow_commands=allow)
    except Refused as error:
        yield from_error("words", error, result="fail")
    config = model.config_or_none(workspace, world)
    notes = config.notes if config else ()
    told = [*without_effect(workspace), *notes, *findings.unknown_variables]
    if not world.is_cluster and workspace.resource.count > 1:
        told.append("resource.count (one machine is one node)")
    if told:
        detail = f"no effect here: {'; '.join(dict.fromkeys(told))}"
        yield Check(name="words", result="warn", detail=detail, fix="remove what you do not need")


def _lack_of_admin_key(workspace: Workspace, world: World) -> Check | None:
    """A line where what serves cannot load another adapter, and is to answer by one some day.

    A trial cannot do without; a promotion ends the pod that serves and starts another.
    """
    moved_by = moves_adapters(workspace)
    if world.has_admin_key or not moved_by:
        return None
    namespace, secret = workspace.metadata.namespace, admin_key_secret(workspace)
    make = (
        f"kubectl create secret generic {secret} --namespace {namespace} "
        '--from-literal=key="$(openssl rand -hex 32)"'
    )
    lacks = f"there is no Secret {namespace}/{secret} with a key that opens its admin endpoints"
    if tries_candidates_out(workspace):
        asked = (
            f"annotation {PROMOTION_ANNOTATION} is 'canary', for which the server loads adapters"
        )
        error = SecretNotFound(asked, lacks, f"make it ({make}), or use approve")
        return from_error("words", error, result="fail")
    asked = f"annotation {moved_by} has adapters promoted"
    lacks += ", so a new pod takes the place of the one that serves, which answers nobody meanwhile"
    return from_error("words", SecretNotFound(asked, lacks, f"make it ({make})"), result="warn")


def _minded(check: Check) -> Check:
    """The same line where it is to stop nothing."""
    return check.model_copy(update={"result": "warn"}) if check.result == "fail" else check


def _of_this_machine(run: Run | None, world: World, memory_gib: float | None) -> Iterator[Check]:
    port, home = world.port, world.home
    if port is not None:
        yield checked("port", lambda: machine.port(world, port))
    if home:
        yield checked("disk", lambda: machine.disk(run.preset if run else None, home))
    if not world.is_cluster:
        yield checked("memory", lambda: machine.memory(memory_gib, world.node))


def _of_nodes(
    workspace: Workspace,
    run: Run | None,
    findings: Findings,
    need: Callable[[], NodeNeed],
) -> Iterator[Check]:
    try:
        offers = nodes.named_offers(workspace)
        yield from _of_the_resource(workspace, run, offers, findings)
        if run:
            dataset_gib = data.dataset_gib(workspace, findings)
            yield from resource.too_little(workspace, run, dataset_gib=dataset_gib)
            shared = together.together(run, nodes.known_fits(run, offers), dataset_gib=dataset_gib)
            yield from filter(None, [shared if findings.provisioner != "local" else None])
        if run and offers:
            yield nodes.gpu_fit(run, offers, findings)
        if run or not workspace.preset:
            yield from filter(None, [nodes.nodes(workspace, findings, need())])
        yield from filter(None, [nodes.quota(workspace, offers, findings)])
        yield from filter(None, [nodes.queue(workspace, findings)])
    except KaitoflowError as error:
        yield from_error("nodes", error, result="fail")


def _of_the_resource(
    workspace: Workspace, run: Run | None, offers: Sequence[Offer], findings: Findings
) -> Iterator[Check]:
    """A line where something is asked for that cannot be."""
    of_machines = "warn" if is_bypassed(workspace) else "fail"
    rules: tuple[tuple[Callable[[], None], str], ...] = (
        (lambda: together.expect_useful_nodes(workspace, run), "fail"),
        (lambda: resource.expect_whole_gpus(workspace, offers), "fail"),
        (lambda: resource.expect_sold(workspace, run, findings), "fail"),
        (lambda: resource.expect_machines(workspace, offers, run, findings), of_machines),
    )
    for rule, result in rules:
        try:
            rule()
        except Refused as error:
            yield from_error("resource", error, result=result)


def _swap(
    workspace: Workspace,
    world: World,
    findings: Findings,
    *,
    memory_gib: float | None,
    is_candidate: bool,
) -> tuple[Swap | None, list[Check]]:
    """What becomes of a server while its successor is tuned, and the line that says so."""
    if not workspace.tuning:
        return None, []
    try:
        chosen = swap.swap(
            workspace, world, findings, memory_gib=memory_gib, is_candidate=is_candidate
        )
    except NoRoomToTune as error:
        return None, [from_error("swap", error, result="fail")]
    except Refused:
        return None, []  # told by the lines on the base model and the nodes
    if chosen is None:
        return None, []
    return chosen, [swap.check(chosen, workspace, world, is_candidate=is_candidate)]


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


def _unchecked(
    workspace: Workspace, world: World, findings: Findings, known: Tuned | None
) -> Iterator[str]:
    """What a person may take for checked and is not, with the reason or what would check it."""
    tuning = None if known else workspace.tuning
    looks: dict[str, object] = {
        "the dataset's address": findings.dataset if tuning else None,
        "the evaluation data's address": findings.evaluation if tuning else None,
        "permission to push": findings.may_push if tuning else None,
        "whether the tuned image is still there": findings.has_tuned_image if known else None,
        "what the cluster would refuse": findings.rehearsal,
        "the cluster's nodes": findings.nodes,
        "which of its GPUs are in use": findings.gpu_holders,
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
    elif findings.provisioner is None:
        yield (
            "what the installation makes nodes of, and whose Workspaces it runs (its worker is not "
            "to be seen from here; set KAITOFLOW_PROVISIONER as it has it)"
        )
    elif findings.quotas is None and workspace.resource.instance_type:
        yield "the cloud's quota (KAITOFLOW_PROVISIONER=aks, and whose it is)"
    if world.is_cluster and findings.rehearsal is None:
        yield "what the cluster would refuse (when it is applied)"
    if tuning:
        yield "the dataset's rows (before training)"
