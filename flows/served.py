"""Whether Workspaces of a namespace are run; asked by every flow that a form can start."""

from tasks.contract.errors import NamespaceNotServed
from tasks.contract.workspace import ObjectMeta
from tasks.settings import settings


def expect_served(metadata: ObjectMeta) -> None:
    """Return when the Workspace is in a namespace of this installation's.

    Raises: NamespaceNotServed: it is not; says which are.
    """
    if not settings().serves(metadata.namespace):
        raise NamespaceNotServed(
            f"a run for workspace {metadata} was asked for",
            f"this installation runs those of {', '.join(settings().namespaces)} alone",
            "name one of these as metadata.namespace, or add it to the chart's namespaces",
        )
