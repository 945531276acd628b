"""Far more is asked for than is worked off, by a client that does not heed `Retry-After`.

`LONG_FAULTS=1` (`make faults`) takes the full measure: 100,000 starts, on a machine that does
nothing else.
"""

from __future__ import annotations

import http.client
import json
import math
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

from tests.support.measure import LONG
from tests.support.pace import within
from tests.support.service import Service

STARTS, READ_SECONDS = (100_000, 0.1) if LONG else (4_000, 1.0)
LIMIT = 1_000
CLIENTS = 4
BODY = json.dumps({"type": "agent", "target_id": "behaves", "inputs": {"do": "echo"}})


def flood(port: int, count: int) -> Counter[tuple[int, str, bool]]:
    """Starts one after the other on one connection: how often each status, code, and whether to
    come again.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    answers = Counter[tuple[int, str, bool]]()
    for _ in range(count):
        connection.request("POST", "/api/v1/executions", BODY, {"Content-Type": "application/json"})
        response = connection.getresponse()
        code = json.load(response).get("code", "")
        answers[response.status, code, response.headers["Retry-After"] is not None] += 1
    connection.close()
    return answers


def test_a_flood_is_refused_beyond_the_limit_while_reads_stay_fast(
    make_service: Callable[..., Service],
) -> None:
    service = make_service(workers=0, WEB_CONCURRENCY=2, MAX_QUEUE_LENGTH=LIMIT)
    first = service.start("behaves", {"do": "echo"})
    took, answers = [], Counter[tuple[int, str, bool]]()
    with ProcessPoolExecutor(CLIENTS) as clients:
        floods = [clients.submit(flood, service.port, STARTS // CLIENTS) for _ in range(CLIENTS)]
        while not all(flooding.done() for flooding in floods):
            response = service.get(f"/executions/{first}")
            assert response.json()["status"] == "pending"
            took.append(response.elapsed.total_seconds())
            time.sleep(0.01)
        for flooding in floods:
            answers += flooding.result()
    assert answers == {(202, "", False): LIMIT - 1, (503, "queue_full", True): STARTS - LIMIT + 1}
    assert service.get("/executions").json()["pagination"]["total_items"] == LIMIT
    assert sorted(took)[math.ceil(len(took) * 0.99) - 1] < within(READ_SECONDS)
