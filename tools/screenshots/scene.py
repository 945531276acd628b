"""What the pictures show: a few agents and a pipeline of a law firm, and their executions.

The flows only wait as long as they are told, so that a picture can be taken while they run.
"""

from __future__ import annotations

import time
from pathlib import Path

from tests.support.service import Service

_AGENTS = {
    "contract_reader": "Reads a contract, and cuts it into clauses.",
    "clause_checker": "Compares clauses with the firm's own standards.",
    "risk_scorer": "Says how risky a clause is, from 0 to 10.",
    "report_writer": "Writes what a lawyer should look at.",
    "ticket_triage": "Decides who should answer a customer's ticket.",
}

_AGENT = """\
name: {name}
description: {description}
inputs:
  - {{name: document, type: string, required: true, desc: The text to work on}}
  - {{name: seconds, type: number, default: 0.4, desc: How long it takes}}
  - {{name: fails, type: boolean, default: false, desc: Whether it fails}}
flows:
  - {{name: default, entrypoint: "flow.py:run", isolation: thread}}
"""

_FLOW = """\
import time


class ClauseNotFound(Exception):
    pass


def run(inputs, context):
    pieces = 40
    for piece in range(pieces):
        context.progress(piece, pieces, f"page {piece + 1}")
        ends_at = time.monotonic() + inputs["seconds"] / pieces
        while time.monotonic() < ends_at and not context.cancelled:
            time.sleep(0.05)
        if inputs["fails"] and piece > pieces * 0.6:
            raise ClauseNotFound("Clause 14.2 is referred to, but is not in the document.")
    return f"Looked at {len(inputs['document'])} characters."
"""

_PIPELINE = """\
name: Contract review
description: Reads a contract, checks its clauses and scores their risks side by side, and reports.
inputs:
  - {name: document, type: string, required: true, desc: The contract}
  - {name: seconds, type: number, default: 0.4, desc: How long each step takes}
steps:
  - id: read
    agent: contract_reader
    input_mapping: {document: document, seconds: seconds}
    output_key: clauses
  - id: check
    agent: clause_checker
    input_mapping: {document: clauses, seconds: seconds}
    output_key: findings
  - id: score
    agent: risk_scorer
    input_mapping: {document: clauses, seconds: seconds}
    output_key: risks
  - id: report
    agent: report_writer
    input_mapping: {document: findings, seconds: seconds}
    depends_on: [score]
    output_key: report
outputs:
  - {key: report, label: The report}
  - {key: risks, label: Risks by clause}
"""

_CONTRACT = "This agreement is made between the Lessor and the Lessee. " * 40


def write_targets(folder: Path) -> tuple[Path, Path]:
    """Writes the agents and the pipeline. Returns their two folders."""
    agents, pipelines = folder / "agents", folder / "pipelines"
    for id, description in _AGENTS.items():
        (agents / id).mkdir(parents=True)
        name = id.replace("_", " ").capitalize()
        text = _AGENT.format(name=name, description=description)
        (agents / id / "agent.yaml").write_text(text)
        (agents / id / "flow.py").write_text(_FLOW)
    pipelines.mkdir()
    (pipelines / "contract_review.yaml").write_text(_PIPELINE)
    return agents, pipelines


def play(service: Service) -> str:
    """Starts what the list shows: some of each status. Returns while some of it still runs: the id
    of a pipeline that does.
    """
    document = {"document": _CONTRACT}
    for _ in range(4):
        service.run("contract_review", document, type="pipeline")
        service.run("ticket_triage", document)
    for agent in ("clause_checker", "contract_reader"):
        service.run(agent, {**document, "fails": True}, config={"retries": {"max": 1}})
    service.run("risk_scorer", {**document, "seconds": 14})
    cancelled = service.start("report_writer", {**document, "seconds": 600})
    service.until(cancelled, "running")
    service.cancel(cancelled)
    service.run("ticket_triage", document)
    running = service.start("contract_review", {**document, "seconds": 25}, type="pipeline")
    service.start("contract_reader", {**document, "seconds": 60})
    time.sleep(28)
    service.start("clause_checker", {**document, "seconds": 45})
    time.sleep(4)
    service.start("contract_review", document, type="pipeline")
    for _ in range(2):
        service.start("ticket_triage", document)
    time.sleep(3)
    return running
