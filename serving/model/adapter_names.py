"""What an adapter is called inside a model."""


def adapter_key(name: str) -> str:
    """The adapter's name inside the model: without dots, and never that of an attribute."""
    return "adapter-" + name.replace(".", "-dot-")
