"""A baseline: Celery with its defaults (prefork), and Redis as broker and result backend.

`celery -A bench.baseline.celery_app worker`, and `python -m bench.baseline.celery_app COUNT INPUTS`
to submit. It runs in an environment of its own (`requirements-bench.txt`), so it imports nothing
from the benchmarks.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

from celery import Celery

_url = os.environ["REDIS_URL"].replace("unix://", "redis+socket://").removesuffix("/0")

# Results go into a database of their own, so that its size is their number.
app = Celery("bench", broker=_url, backend=f"{_url}?virtual_host=1")


@app.task(name="task")
def task(inputs: dict[str, Any]) -> dict[str, Any]:
    time.sleep(inputs.get("seconds", 0))
    return inputs


if __name__ == "__main__":
    for _ in range(int(sys.argv[1])):
        task.delay(json.loads(sys.argv[2]))
