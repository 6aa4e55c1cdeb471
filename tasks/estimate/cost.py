"""What a run costs."""


def cost_usd(seconds: float, *, price_per_hour: float, nodes: int = 1) -> float:
    """USD for nodes that are held that long; clouds bill by the second."""
    return seconds / 3600 * price_per_hour * nodes
