"""What a Workspace's machines have cost so far: which were held, for how long, at what price. Pure.

Money runs from a machine's claim to its return; times are UTC, in Kubernetes' format.
"""

from collections.abc import Iterable
from datetime import datetime

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from tasks.contract.units import utc_moment, utc_text


class _Part(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)


class HeldMachine(_Part):
    """A machine that was made for the Workspace.

    name: its claim's. node: empty = it has not become one. price_per_hour: USD; None = the price
    table does not say. until: empty = it is still held.
    """

    name: str
    node: str = ""
    instance_type: str
    capacity_type: str
    gpus: int = 0
    price_per_hour: float | None = None
    since: str
    until: str = ""

    def hours(self, now: datetime) -> float:
        """How long it was held by then; clouds bill by the second."""
        end = utc_moment(self.until) if self.until else now
        return max((end - utc_moment(self.since)).total_seconds(), 0.0) / 3600


class Cost(_Part):
    """What was held, and the sums of it as of a moment; a reader who wants them now asks `at`.

    price_usd: None = the price of a machine is not known.
    """

    machines: list[HeldMachine] = []
    gpu_hours: float = 0.0
    price_usd: float | None = None
    as_of: str = ""

    def at(self, now: datetime) -> "Cost":
        """The same, with its sums as of another moment."""
        if not self.machines:
            return self
        hours = [(machine, machine.hours(now)) for machine in self.machines]
        prices = [machine.price_per_hour for machine in self.machines]
        is_known = all(price is not None for price in prices)
        usd = sum(held * (machine.price_per_hour or 0) for machine, held in hours)
        return Cost(
            machines=self.machines,
            gpu_hours=round(sum(held * machine.gpus for machine, held in hours), 3),
            price_usd=round(usd, 2) if is_known else None,
            as_of=utc_text(now),
        )

    def holding(self, machines: Iterable[HeldMachine], now: datetime) -> "Cost":
        """The cost when these machines are held now: others have gone back."""
        held = {(machine.name, machine.since): machine for machine in machines}
        known = {(machine.name, machine.since): machine for machine in self.machines}
        gone = {
            key: machine.model_copy(update={"until": machine.until or utc_text(now)})
            for key, machine in known.items()
            if key not in held
        }
        return Cost(machines=[*(known | gone | held).values()]).at(now)

    def __str__(self) -> str:
        """One line, such as `$3.06 for 1.000 GPU-hours, $3.06 an hour now`."""
        if not self.machines:
            return ""
        price = "price unknown" if self.price_usd is None else f"${self.price_usd:,.2f}"
        text = f"{price} for {self.gpu_hours:.3f} GPU-hours"
        held = [machine for machine in self.machines if not machine.until]
        if held and self.price_usd is not None:
            text += f", ${sum(machine.price_per_hour or 0 for machine in held):,.2f} an hour now"
        unknown = sorted({m.instance_type for m in self.machines if m.price_per_hour is None})
        if unknown:
            text += f" (no price of {', '.join(unknown)}: set KAITOFLOW_PRICE_TABLE)"
        return text
