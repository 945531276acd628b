"""The main baseline: Flask and RQ, combined as in RQ's documentation, without any guarantees.

`bench.figures.web` and `bench.figures.queue` start it as `gunicorn bench.baseline.plain_rq:app`,
with `rq worker bench` as its workers.
"""

from __future__ import annotations

import os
from typing import Any

from flask import Flask, jsonify, request
from redis import Redis
from rq import Queue
from rq.job import Job

from bench.baseline.plain_rq_task import task

app = Flask(__name__)
connection = Redis.from_url(os.environ["REDIS_URL"])
queue = Queue("bench", connection=connection)


@app.post("/executions")
def start() -> Any:
    job = queue.enqueue(task, request.get_json()["inputs"])
    return jsonify({"execution_id": job.id, "status": job.get_status(refresh=False)}), 202


@app.get("/executions/<job_id>")
def status(job_id: str) -> Any:
    job = Job.fetch(job_id, connection=connection)
    return jsonify(
        {
            "execution_id": job.id,
            "status": job.get_status(refresh=False),
            "outputs": job.return_value(),
        }
    )
