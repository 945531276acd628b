"""Implements the use cases of webhook deliveries: what was sent for an execution, and again.

`app.api.deliveries` and the dashboard call it.
"""

from __future__ import annotations

import re

from app.domain.delivery import DeliveryPage, DeliveryStatus
from app.domain.errors import NotFound
from app.services.executions import ExecutionService

_NUMBER = re.compile(r"[1-9][0-9]{0,8}")


def read(
    executions: ExecutionService, execution_id: str, tenant: str, after: int = 0
) -> DeliveryPage:
    """The deliveries with numbers above `after`, 100 at most. Raises `NotFound`."""
    page = executions.store.deliveries.read(execution_id, tenant, after)
    if page is None:
        raise NotFound.of_execution(execution_id)
    return page


def redeliver(
    executions: ExecutionService, execution_id: str, tenant: str, number: str
) -> DeliveryStatus:
    """Has a delivery sent again at once. `number` is part of an address. Raises `NotFound`."""
    store, status = executions.store.deliveries, None
    if _NUMBER.fullmatch(number):
        status = store.redeliver(execution_id, tenant, int(number))
    if status is None:
        raise NotFound(f"There is no delivery {number} of an execution {execution_id}.")
    return status
