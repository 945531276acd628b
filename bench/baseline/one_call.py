"""The least that a service on Redis costs: bare views with one call of the store each.

`bench.figures.web` serves it beside the service.
"""

from __future__ import annotations

import os
from typing import Any

import redis
from flask import Flask, jsonify, request

app = Flask(__name__)
store = redis.Redis.from_url(os.environ["REDIS_URL"])


@app.post("/executions")
def start() -> Any:
    store.set("one-call", request.get_data())
    return jsonify(
        {"execution_id": "x", "status": "pending", "echo": request.get_json()["type"]}
    ), 202


@app.get("/executions/<execution_id>")
def status(execution_id: str) -> Any:
    found: Any = store.get("one-call")
    return jsonify({"execution_id": execution_id, "status": "completed", "bytes": len(found)})
