"""`/v1/capabilities`."""

from typing import Any

from gnocchi.carbonara.methods import METHODS


class CapabilitiesController:
    def get(self) -> dict[str, Any]:
        return {"aggregation_methods": METHODS}
