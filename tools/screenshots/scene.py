"""What the pictures show: a few agents and a pipeline of a law firm, and their executions.

The flows only wait as long as they are told, so that a picture can be taken while they run. A
stand-in for a model's server says what a model might say.
"""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

from tests.support.model_server import Answer
from tests.support.service import Service

_AGENTS = {
    "contract_reader": "Reads a contract, and cuts it into clauses.",
    "clause_checker": "Compares clauses with the firm's own standards.",
    "party_finder": "Finds who signs a contract, and for whom.",
    "risk_scorer": "Says how risky a clause is, from 0 to 10.",
    "report_writer": "Writes what a lawyer should look at.",
    "ticket_triage": "Decides who should answer a customer's ticket.",
}

_AGENT = """\
name: {name}
description: {description}
inputs:
  - {{name: document, type: string, required: true, desc: The text to work on}}
  - {{name: question, type: string, desc: What to ask a model first}}
  - {{name: seconds, type: number, default: 0.4, desc: How long it takes}}
  - {{name: fails, type: boolean, default: false, desc: Whether it fails}}
  - {{name: fails_once, type: boolean, default: false, desc: Whether its first try fails}}
flows:
  - {{name: default, entrypoint: "flow.py:run", isolation: thread}}
"""

_FLOW = """\
import time

tried = set()


class ClauseNotFound(Exception):
    pass


def run(inputs, context):
    if inputs.get("question"):
        context.complete(f"{inputs['question']} ({inputs['seconds']} s)", stream=True)
    pieces = 40
    for piece in range(pieces):
        context.progress(piece, pieces, f"page {piece + 1}")
        ends_at = time.monotonic() + inputs["seconds"] / pieces
        while time.monotonic() < ends_at and not context.cancelled:
            time.sleep(0.05)
        if piece > pieces * 0.6 and fails_now(inputs, context.step_key):
            raise ClauseNotFound("Clause 14.2 is referred to, but is not in the document.")
    return f"Looked at {len(inputs['document'])} characters."


def fails_now(inputs, key):
    is_first = key not in tried
    tried.add(key)
    return inputs["fails"] or (inputs["fails_once"] and is_first and inputs["seconds"] > 1)
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
    input_mapping:
      document: document
      seconds: seconds
      question: {value: "Which clauses does this contract have?"}
    output_key: clauses
  - id: check
    agent: clause_checker
    input_mapping: {document: clauses, seconds: seconds, fails_once: {value: true}}
    retries: {max: 2, backoff_seconds: [5]}
    output_key: findings
  - id: parties
    agent: party_finder
    input_mapping: {document: clauses, seconds: seconds}
    required: false
    output_key: parties
  - id: score
    agent: risk_scorer
    input_mapping:
      document: clauses
      seconds: seconds
      question: {value: "How risky are these clauses?"}
    output_key: risks
  - id: report
    agent: report_writer
    input_mapping: {document: findings, seconds: seconds}
    depends_on: [parties, score]
    output_key: report
outputs:
  - {key: report, label: The report}
  - {key: risks, label: Risks by clause}
"""

_ANSWERS = {
    "Which clauses": "Nine clauses: the parties, the premises, the term, the rent, the deposit, "
    "repairs, insurance, notice, and the law that applies. ",
    "How risky": "Clause 3 (term): 2 of 10, it is standard. Clause 4 (rent): 6 of 10, the index "
    "is not named. Clause 5 (deposit): 1 of 10. Clause 6 (repairs): 8 of 10, the lessee bears the "
    "roof. Clause 7 (insurance): 3 of 10. Clause 8 (notice): 5 of 10, three months are short. ",
}

_CONTRACT = "This agreement is made between the Lessor and the Lessee. " * 9


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


def reply(asked: dict[str, Any]) -> Answer:
    """What the model answers: word by word, and slowly to a step that takes long."""
    question = str(asked["messages"])
    text = next((text for start, text in _ANSWERS.items() if start in question), "Nothing. ")
    words = [{"choices": [{"index": 0, "delta": {"content": word}}]} for word in _words(text)]
    end: dict[str, Any] = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    usage = {
        "prompt_tokens": 412,
        "completion_tokens": len(words),
        "total_tokens": 412 + len(words),
    }
    pieces = [*words, end, {"choices": [], "usage": usage}]
    named = [{**piece, "model": asked["model"]} for piece in pieces]
    is_slow = "How risky" in question and "(0.4 s)" not in question
    return Answer(pieces=named, pause_seconds=0.3 if is_slow else 0.02, ends=("done",))


def _words(text: str) -> list[str]:
    return re.findall(r"\S+\s*", text)


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
    running = service.start("contract_review", {**document, "seconds": 8}, type="pipeline")
    service.start("contract_reader", {**document, "seconds": 60})
    time.sleep(16)
    service.start("clause_checker", {**document, "seconds": 45})
    time.sleep(4)
    service.start("contract_review", document, type="pipeline")
    for _ in range(2):
        service.start("ticket_triage", document)
    time.sleep(2)
    return running
