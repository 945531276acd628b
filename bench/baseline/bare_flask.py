"""The upper bound for any Flask service: views that only read and write JSON.

`bench.figures.web` serves it beside the service.
"""

from __future__ import annotations

from typing import Any

from flask import Flask, jsonify, request

app = Flask(__name__)


@app.post("/executions")
def start() -> Any:
    return jsonify(
        {"execution_id": "x", "status": "pending", "echo": request.get_json()["type"]}
    ), 202


@app.get("/executions/<execution_id>")
def status(execution_id: str) -> Any:
    return jsonify({"execution_id": execution_id, "status": "completed"})
