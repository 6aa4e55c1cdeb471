"""YAML as people write it for us: nothing in it is dropped or read otherwise without a word.

PyYAML lets the last of two equal keys win; kubectl refuses them, and so do we.
"""

from typing import Any

import yaml
from yaml.constructor import ConstructorError

_MERGE = "tag:yaml.org,2002:merge"


def load_documents(text: str) -> list[Any]:
    """The documents of a text, in plain types.

    Raises: yaml.YAMLError: it cannot be read, or a mapping has a key twice.
    """
    try:
        return list(yaml.load_all(text, Loader=_StrictLoader))
    except RecursionError:
        raise yaml.YAMLError("it is nested too deep") from None


def load_document(text: str) -> Any:
    """The one document of a text, in plain types; None when it is empty.

    Raises: yaml.YAMLError: as above, or there are several.
    """
    documents = load_documents(text)
    if len(documents) > 1:
        raise yaml.YAMLError("there are several documents, divided by ---")
    return documents[0] if documents else None


def problem_in(error: yaml.YAMLError) -> str:
    """What is wrong and where, in one line."""
    mark = getattr(error, "problem_mark", None)
    where = f"line {mark.line + 1}: " if mark else ""
    return where + " ".join(str(getattr(error, "problem", None) or error).split())


class _StrictLoader(yaml.SafeLoader):
    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # Looked at before `<<` is resolved: a key beside it replaces what it brings.
        node = super().compose_mapping_node(anchor)
        first: dict[tuple[str, str], yaml.ScalarNode] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == _MERGE:
                continue
            other = first.setdefault((key.tag, key.value), key)
            if other is not key:
                said = f"{key.value} is given twice, first in line {other.start_mark.line + 1}"
                raise ConstructorError(None, None, said, key.start_mark)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:  # noqa: FBT001, FBT002
        try:
            return super().construct_object(node, deep=deep)
        except ValueError as error:  # a date such as 2026-13-01
            said = f"{node.value!r} cannot be read: {error}"
            raise ConstructorError(None, None, said, node.start_mark) from None
