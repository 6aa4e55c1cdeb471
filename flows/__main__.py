"""The command line: `kaitoflow`. Only what is typed is imported, so that --help answers at once.

Exit codes: 0 ok, 1 failed, 2 usage, 3 refused by a check, 130 interrupted.
"""

import errno
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated, Literal

from cyclopts import App, CycloptsError, Parameter, validators

from flows.places.place import Place
from tasks.contract.redaction import harmless, keep_secrets_out_of_logs, redacted
from tasks.contract.steps import StepName

app = App(
    name="kaitoflow",
    help="Fine-tune and serve language models from one KAITO Workspace.",
    help_epilogue="First minute: kaitoflow run deployments/examples/quickstart.yaml",
    version_flags=["--version"],
)

Namespace = Annotated[
    str | None,
    Parameter(
        name=["--namespace", "-n"], help="The context's on a cluster, else `default`, if left away."
    ),
]
Where = Annotated[Place, Parameter(name="*")]
Output = Annotated[Literal["table", "wide", "json", "yaml"], Parameter(name=["--output", "-o"])]


def _in_range(_kind: object, port: int | None) -> None:
    if port is not None and not 0 <= port <= 65535:
        raise ValueError("A port is a number from 0 to 65535.")


Port = Annotated[int | None, Parameter(validator=_in_range)]
AtLeastOne = Annotated[int | None, Parameter(validator=validators.Number(gte=1))]
INTERRUPTED, USAGE = 130, 2
DEFAULT_PLACE = Place()


@app.command
def run(file: Path, *, push: bool = False, port: Port = None, place: Where = DEFAULT_PLACE) -> int:
    """Tune, publish and serve what FILE's Workspace asks for; run it again to resume.

    Parameters
    ----------
    file
        YAML with one Workspace, and the ConfigMaps and Secrets that it names.
    push
        Send the image to its registry too, instead of only keeping it on disk; on a cluster always.
    port
        Where the server listens on this machine; the first free port from 5000 on when left away.
    """
    from flows.commands.run import run_file

    return run_file(file, push=push, port=port, place=place)


@app.command
def plan(
    file: Path,
    *,
    push: bool = False,
    port: Port = None,
    output: Output = "table",
    place: Where = DEFAULT_PLACE,
) -> int:
    """Say what a run of FILE would need in memory and time, and whether it may; creates nothing."""
    from flows.commands.run import plan_file

    return plan_file(file, push=push, port=port, output=output, place=place)


@app.command
def get(
    *names: str,
    namespace: Namespace = None,
    all_namespaces: Annotated[bool, Parameter(name=["--all-namespaces", "-A"])] = False,
    output: Output = "table",
    watch: Annotated[bool, Parameter(name=["--watch", "-w"])] = False,
    place: Where = DEFAULT_PLACE,
) -> int:
    """List Workspaces, or those named, with their conditions."""
    from flows.commands.show import get_workspaces

    return get_workspaces(
        names,
        namespace=namespace,
        all_namespaces=all_namespaces,
        output=output,
        watch=watch,
        place=place,
    )


@app.command
def describe(name: str, *, namespace: Namespace = None, place: Where = DEFAULT_PLACE) -> int:
    """Show one Workspace whole: conditions with their reasons, steps, image, service."""
    from flows.commands.show import describe_workspace

    return describe_workspace(name, namespace=namespace, place=place)


@app.command
def events(
    name: str | None = None,
    *,
    namespace: Namespace = None,
    all_namespaces: Annotated[bool, Parameter(name=["--all-namespaces", "-A"])] = False,
    watch: Annotated[bool, Parameter(name=["--watch", "-w"])] = False,
    place: Where = DEFAULT_PLACE,
) -> int:
    """Print what happened to a Workspace, or to all: machines, nodes, pods, steps, adapters.

    Parameters
    ----------
    watch
        Go on printing what is new.
    """
    from flows.commands.show import print_events

    return print_events(
        name, namespace=namespace, all_namespaces=all_namespaces, watch=watch, place=place
    )


@app.command
def logs(
    name: str,
    *,
    step: StepName | str | None = None,
    follow: Annotated[bool, Parameter(name=["--follow", "-f"])] = False,
    previous: Annotated[bool, Parameter(name=["--previous", "-p"])] = False,
    namespace: Namespace = None,
    place: Where = DEFAULT_PLACE,
) -> int:
    """Print what the steps of a Workspace's run said.

    Parameters
    ----------
    step
        Only this one, or one of its containers, such as fetch-dataset or serve.
    follow
        Go on printing while the run lasts.
    previous
        The start before the last one.
    """
    from flows.commands.show import print_logs

    return print_logs(
        name, namespace=namespace, step=step, follow=follow, previous=previous, place=place
    )


@app.command
def chat(
    name: str,
    prompt: str | None = None,
    *,
    namespace: Namespace = None,
    place: Where = DEFAULT_PLACE,
) -> int:
    """Talk to a Workspace's model; without PROMPT a conversation until Ctrl-D."""
    from flows.commands.chat import chat_with

    return chat_with(name, prompt, namespace=namespace, place=place)


@app.command
def stop(name: str, *, namespace: Namespace = None, place: Where = DEFAULT_PLACE) -> int:
    """Stop a Workspace's run and its server; `run` resumes."""
    from flows.commands.end import stop_workspace

    return stop_workspace(name, namespace=namespace, place=place)


@app.command
def delete(
    name: str,
    *,
    yes: Annotated[bool, Parameter(name=["--yes", "-y"])] = False,
    namespace: Namespace = None,
    place: Where = DEFAULT_PLACE,
) -> int:
    """Stop a Workspace and forget it with its files; models and images are kept."""
    from flows.commands.end import delete_workspace

    return delete_workspace(name, namespace=namespace, yes=yes, place=place)


models = App(name="models", help="The catalogue of base models.")
app.command(models)


@models.default
def list_models(
    *names: str, cloud: Literal["azure", "aws"] | None = None, output: Output = "table"
) -> int:
    """List the models of the catalogue: what each can do here, and the cheapest machine for it.

    Parameters
    ----------
    names
        Only these, by name or Hugging Face id.
    cloud
        Whose machines; of either when left away.
    output
        wide and json say why a model cannot do something.
    """
    from flows.commands.models import show_models

    return show_models(names, cloud=cloud, output=output)


@models.command
def push(model: str, registry: str) -> int:
    """Push a model's weights as an image, for Workspaces that have no way to the hub.

    Parameters
    ----------
    model
        Its name in the catalogue, or a Hugging Face id with @revision behind it if wanted.
    registry
        A registry, or a path of it: registry.example.com/models. What is there already is not sent.
    """
    from flows.commands.push_model import push_model

    return push_model(model, registry)


@app.command
def retune(
    workspace: str,
    *,
    push: bool = False,
    namespace: Namespace = None,
    place: Where = DEFAULT_PLACE,
) -> int:
    """Tune an adapter if the data has changed, and serve it if it is better than what serves.

    Parameters
    ----------
    workspace
        Its name, or its file; one that was run before.
    push
        Send the image to its registry too, instead of only keeping it on disk.
    """
    from flows.commands.adapters import retune as retune_adapter

    return retune_adapter(workspace, push=push, namespace=namespace, place=place)


@app.command
def sweep(
    file: Path,
    *,
    tried: Annotated[list[str], Parameter(name="--set")],
    push: bool = False,
    port: Port = None,
    place: Where = DEFAULT_PLACE,
) -> int:
    """Tune FILE's Workspace with several settings, and serve the adapter with the lowest loss.

    Parameters
    ----------
    file
        YAML with one Workspace, as for `run`.
    tried
        A setting with its values, as learning_rate=1e-4,2e-4; several make all combinations.
    push
        Send the image to its registry too, instead of only keeping it on disk.
    port
        Where the server listens on this machine; the first free port from 5000 on when left away.
    """
    from flows.commands.sweep import sweep_file

    return sweep_file(file, tried, push=push, port=port, place=place)


@app.command
def promote(
    name: str,
    *,
    number: AtLeastOne = None,
    refuse: bool = False,
    note: str = "",
    namespace: Namespace = None,
    place: Where = DEFAULT_PLACE,
) -> int:
    """Have an adapter of a Workspace serve: the one that waits for a word, or any by its number.

    Parameters
    ----------
    number
        As `kaitoflow history` shows it.
    refuse
        Keep it out instead, if it waits for a word.
    note
        Why, to be read in the history.
    """
    from flows.commands.adapters import promote as promote_adapter

    return promote_adapter(
        name, number=number, refuse=refuse, note=note, namespace=namespace, place=place
    )


@app.command
def rollback(
    name: str, *, note: str = "", namespace: Namespace = None, place: Where = DEFAULT_PLACE
) -> int:
    """Have the adapter serve that did before.

    Parameters
    ----------
    note
        Why, to be read in the history.
    """
    from flows.commands.adapters import rollback as roll_back

    return roll_back(name, note=note, namespace=namespace, place=place)


@app.command
def adapters(
    name: str,
    action: Literal["list", "load", "unload", "blend", "merge"] = "list",
    *words: str,
    in_place: bool = False,
    namespace: Namespace = None,
    output: Output = "table",
    place: Where = DEFAULT_PLACE,
) -> int:
    """Show the adapters that a Workspace's server has, or change them while it serves.

    Parameters
    ----------
    action
        load ADAPTER IMAGE-OR-FOLDER serves one more, unload ADAPTER one less, blend ADAPTER
        PART=WEIGHT... the weighted sum of others; merge FOLDER [ADAPTER] writes a model that needs
        no adapter, on one machine.
    words
        What the action is about.
    in_place
        load: an adapter that has the name already gives it up.
    """
    from flows.commands.served_adapters import adapters as act

    return act(
        name,
        action,
        words,
        in_place=in_place,
        namespace=namespace,
        output=output,
        place=place,
    )


@app.command
def history(name: str, *, namespace: Namespace = None, place: Where = DEFAULT_PLACE) -> int:
    """List a Workspace's adapters: what each was tuned from, how it did, and why it serves."""
    from flows.commands.adapters import print_history

    return print_history(name, namespace=namespace, place=place)


@app.command
def diff(
    name: str,
    before: str | None = None,
    after: str | None = None,
    *,
    namespace: Namespace = None,
    output: Output = "table",
    place: Where = DEFAULT_PLACE,
) -> int:
    """Show two adapters of a Workspace side by side: how each did, from which data and settings.

    Parameters
    ----------
    before
        Its number, as `kaitoflow history` shows it. Without any: what serves beside the candidate
        that waits for a word, else the adapter before beside what serves.
    after
        The other one; what serves when left away.
    output
        wide shows settings that are the same, too.
    """
    from flows.commands.adapters import print_diff

    wanted = [each for each in (before, after) if each is not None]
    return print_diff(name, wanted, namespace=namespace, output=output, place=place)


@app.command
def leaks(*, collect: bool = False, output: Output = "table", place: Where = DEFAULT_PLACE) -> int:
    """List the machines that were made for Workspaces and that nobody needs; 1 when there are any.

    Parameters
    ----------
    collect
        Remove those that may be removed, then list what is left.
    """
    from flows.commands.leaks import show_leaks

    return show_leaks(collect=collect, output=output, place=place)


@app.command
def doctor(*, output: Output = "table", place: Where = DEFAULT_PLACE) -> int:
    """Look at this machine, or an installation, for what a run would stumble over; 1 when it would.

    A cluster's Prefect is asked, too, where PREFECT_API_URL names it.
    """
    from flows.commands.doctor import examine_place

    return examine_place(output=output, place=place)


@app.command
def explain(reason: str | None = None) -> int:
    """Say what a condition's reason means, and what to do about it; without REASON, list them.

    Parameters
    ----------
    reason
        As conditions, events and messages name it, such as OutOfMemory.
    """
    from flows.commands.explain import explain_reason

    return explain_reason(reason)


@app.command
def server() -> int:
    """Run a Prefect server, a worker and the deployments, to start runs from a form in its UI."""
    from flows.commands.server import serve_prefect

    return serve_prefect()


@app.command
def worker(
    *,
    pool: str | None = None,
    name: str | None = None,
    limit: AtLeastOne = None,
    port: Port = None,
) -> int:
    """Await the runs of a work pool in this process, hundreds at once, as on a cluster.

    Parameters
    ----------
    pool
        Prefect's work pool, made when absent; kaitoflow when left away.
    name
        Of this worker and no other: the next one of that name resumes what it held; this
        machine's name when left away.
    limit
        Runs held at once; 200 when left away. 20 where Prefect's server uses SQLite.
    port
        Where /healthz and /poke listen; 8787 when left away, 0 for any free one.
    """
    from flows.commands.worker import serve_runs

    return serve_runs(pool=pool, name=name, limit=limit, port=port)


@app.command
def watcher() -> int:
    """Start a run for every Workspace of the cluster, and remove what a deleted one leaves."""
    from flows.commands.watcher import watch_workspaces

    return watch_workspaces()


installation = App(name="installation", help="What the chart's Jobs run beside its programs.")
app.command(installation)


@installation.command
def make_passwords(*passwords: str) -> int:
    """Make the Secrets of passwords that are not there; one that is there stays as it is.

    Parameters
    ----------
    passwords
        Each SECRET/KEY, or SECRET/KEY=USER to hold user:password.
    """
    from flows.commands.installation import make_passwords_of

    return make_passwords_of(passwords)


@installation.command
def before_uninstall(*, job: str, drain: bool = False, limit_s: float = 240) -> int:
    """Refuse an uninstallation while Workspaces live, or delete them before.

    Parameters
    ----------
    job
        That asks; it does nothing unless Helm or Argo CD have made it for an uninstallation.
    drain
        Delete the Workspaces, and wait until they are gone.
    limit_s
        How long to wait.
    """
    from flows.commands.installation import before_uninstall as look

    return look(job=job, is_draining=drain, limit_s=limit_s)


@app.command
def version() -> int:
    """Print the versions of kaitoflow, Prefect and Python."""
    from flows.commands.show import print_version

    return print_version()


def main() -> int:
    """Run one command; its exit code."""
    # For all that it starts: a tasks.py or yaml.py in the current folder is somebody else's.
    os.environ["PYTHONSAFEPATH"] = "1"
    # What is written is its owner's: addresses with passwords, rows, logs, Prefect's database.
    os.umask(0o077)
    _open_closed_streams()
    signal.signal(signal.SIGTERM, _interrupt)
    keep_secrets_out_of_logs()
    try:
        # `bind` apart from the call: only a wrong command line is a usage error.
        command, bound, _ = app.parse_args(sys.argv[1:], exit_on_error=False, print_error=True)
        code = int(command(*bound.args, **bound.kwargs) or 0)
        sys.stdout.flush()  # here, where a reader that has gone is still caught
        return code
    except CycloptsError:
        return USAGE
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _discard_output()
        return 0
    except Exception as error:  # noqa: BLE001  the edge: typed errors become exit codes
        return _report(error)


def _open_closed_streams() -> None:
    """Give a process that was started without (`>&-`) streams to write to: Python has None."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            nowhere = Path(os.devnull).open(mode, encoding="utf-8")  # noqa: SIM115  to the end
            setattr(sys, name, nowhere)


def _discard_output() -> None:
    """Let what is left to write go nowhere, or the interpreter's end would tell of it again."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _report(error: Exception) -> int:
    from tasks.contract.errors import DiskFull, HomeUnusable, KaitoflowError

    if isinstance(error, OSError) and error.filename:
        asked, found = f"{error.filename} was to be used", str(error.strerror)
        if error.errno == errno.ENOSPC:
            error = DiskFull(asked, found, "free some disk")
        elif error.errno in (errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EACCES):
            error = HomeUnusable(
                asked, found, "set KAITOFLOW_HOME to a folder that you may write to"
            )
    if not isinstance(error, KaitoflowError):
        raise error
    # A registry's or server's words may be in it.
    sys.stderr.write(harmless(redacted(f"{error.reason}: {error}")) + "\n")
    return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
