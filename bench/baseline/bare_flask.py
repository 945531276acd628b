"""The ceiling: a Flask view that does nothing but read and write JSON."""

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
