"""`/v1/capabilities`."""

from typing import Any

import pecan

from gnocchi.carbonara.methods import METHODS


class CapabilitiesController:
    @pecan.expose("json")
    def get(self) -> dict[str, Any]:
        return {"aggregation_methods": METHODS}
