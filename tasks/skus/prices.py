"""What a machine costs an hour, by a dated table that a person may replace."""

import functools
from importlib.resources import files
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tasks.contract.errors import InvalidPriceTable


class Price(BaseModel):
    """USD per hour; None = not known."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    on_demand: float | None = Field(default=None, gt=0)
    spot: float | None = Field(default=None, gt=0)


class PriceTable(BaseModel):
    """Prices by instance type, with the day and the source that they are of."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dated: str
    source: str
    per_hour_usd: dict[str, Price]

    def price_per_hour(
        self, instance_type: str, capacity_type: Literal["on-demand", "spot"]
    ) -> float | None:
        """USD per hour; None when the table does not say."""
        by_name = {name.lower(): price for name, price in self.per_hour_usd.items()}
        price = by_name.get(instance_type.lower(), Price())
        return price.spot if capacity_type == "spot" else price.on_demand


@functools.lru_cache(maxsize=8)
def price_table(path: Path | None = None) -> PriceTable:
    """The table in a file, read once; None = the one that comes with us.

    Raises: InvalidPriceTable: the file cannot be read, or says something else.
    """
    try:
        text = path.read_text() if path else files(__package__).joinpath("prices.yaml").read_text()
        return PriceTable.model_validate(yaml.safe_load(text))
    except (OSError, yaml.YAMLError, ValidationError) as error:
        raise InvalidPriceTable(
            f"prices were asked for from {path}",
            f"{' '.join(str(error).split())}",
            "write it as tasks/skus/prices.yaml is written, or unset KAITOFLOW_PRICE_TABLE",
        ) from None
