"""The other baseline: Celery with its defaults, Redis as broker and for results, prefork.

`celery -A bench.baseline.celery_app worker`, and `python -m bench.baseline.celery_app COUNT INPUTS`
to submit. It is run by an environment of its own (`requirements-bench.txt`), so it imports nothing
of the benchmarks'.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

from celery import Celery

_url = os.environ["REDIS_URL"].replace("unix://", "redis+socket://").removesuffix("/0")

# Results go into a database of their own, whose size tells how many there are.
app = Celery("bench", broker=_url, backend=f"{_url}?virtual_host=1")


@app.task(name="task")
def task(inputs: dict[str, Any]) -> dict[str, Any]:
    time.sleep(inputs.get("seconds", 0))
    return inputs


if __name__ == "__main__":
    for _ in range(int(sys.argv[1])):
        task.delay(json.loads(sys.argv[2]))
