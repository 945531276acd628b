"""A client that openapi-python-client makes of the description works against the service."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import requests

from tests.support.service import Service

USE = """
import json, sys, time
from client import Client
from client.api.executions import get_execution, list_executions, start_execution
from client.models import Start, StartInputs, StartType

url, text = sys.argv[1:]
client = Client(base_url=url)
inputs = StartInputs.from_dict({"text": text, "max_sentences": 1})
inputs["text"] = text + " It is old."
body = Start(type_=StartType("agent"), target_id="mem_l1_summarizer", inputs=inputs)
started = start_execution.sync(client=client, body=body)
while True:
    status = get_execution.sync(started.execution_id, client=client)
    if status.status in ("completed", "failed", "cancelled"):
        break
    time.sleep(0.1)
refused = start_execution.sync(
    client=client, body=Start(type_=body.type_, target_id="mem_l1_sumarizer", inputs=inputs)
)
listed = list_executions.sync(client=client, page_size=100)
print(json.dumps({
    "status": str(status.status), "outputs": status.outputs.to_dict(), "detail": refused.detail,
    "listed": started.execution_id in [entry.execution_id for entry in listed.executions],
}))
"""


def test_a_generated_client_starts_an_execution_with_inputs_and_gets_its_outputs(
    service: Service, tmp_path: Path
) -> None:
    description = requests.get(f"{service.url}/openapi.json", timeout=10)
    (tmp_path / "openapi.json").write_bytes(description.content)
    (tmp_path / "config.yaml").write_text("post_hooks: []\n")  # else it formats with ruff
    command = Path(sys.executable).parent / "openapi-python-client"
    options = ["--path", "openapi.json", "--config", "config.yaml", "--output-path", "client"]
    # A warning means that an operation or an answer was left out of the client.
    made = subprocess.run(
        [command, "generate", *options, "--meta", "none", "--fail-on-warning"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert made.returncode == 0, made.stdout + made.stderr
    operations = {
        operation["operationId"]
        for path in description.json()["paths"].values()
        for method, operation in path.items()
        if method != "parameters"
    }
    modules = {file.stem for file in (tmp_path / "client" / "api").rglob("*.py")} - {"__init__"}
    assert operations == modules
    used = subprocess.run(
        [sys.executable, "-c", USE, service.url, "The tower is tall."],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert used.returncode == 0, used.stderr
    answer = json.loads(used.stdout)
    assert answer["status"] == "completed"
    assert answer["outputs"]["output"] in ("The tower is tall.", "It is old.")
    assert "Did you mean 'mem_l1_summarizer'?" in answer["detail"]
    assert answer["listed"]


def test_inputs_are_an_object_with_free_properties_and_a_rule_about_their_names(
    service: Service,
) -> None:
    schemas = requests.get(f"{service.url}/openapi.json", timeout=10).json()["components"]
    inputs = schemas["schemas"]["Start"]["properties"]["inputs"]
    assert inputs["type"] == "object"
    assert inputs["additionalProperties"] is True
    assert inputs["propertyNames"]["maxLength"] == 128
    assert "patternProperties" not in inputs
