"""Examples of requests and answers, for the API's description."""

from __future__ import annotations

import http
from collections.abc import Iterable
from typing import Any

from app.errors import TooMuchRetried

_ID, _AT, _LATER = "exec_0mwunom46t1oafptp2rj", "2026-01-05T10:30:00.000Z", "2026-01-05T10:30:05.000Z"
_URL = f"/api/v1/executions/{_ID}"
_AGENT = {"execution_id": _ID, "type": "agent", "target_id": "mem_l1_summarizer", "created_at": _AT}
_PIPELINE = {**_AGENT, "type": "pipeline", "target_id": "customer_service_flow"}

STARTS = {
    "agent": {
        "value": {
            "type": "agent",
            "target_id": "mem_l1_summarizer",
            "inputs": {"text": "Test input"},
            "config": {"flow_id": "default"},
        }
    },
    "pipeline": {
        "value": {
            "type": "pipeline",
            "target_id": "customer_service_flow",
            "inputs": {"customer_query": "How do I reset my password?"},
            "config": {"max_workers": 4},
        }
    },
}

CANCELS: dict[str, Any] = {"nothing to say": {"value": {}}}

RETRIES = {
    "as it was": {"value": {}},
    "from the start, for longer": {"value": {"from": "start", "config": {"timeout": 1200}}},
}

STARTED = {
    "execution_id": _ID,
    "status": "pending",
    "message": "Agent execution started",
    "status_url": _URL,
    "created_at": _AT,
}

RETRIED = {**STARTED, "message": "Pipeline execution started", "retry_of": "exec_0mwunokq1rkz5y8d3f7a"}

_USAGE = {
    "tokens_used": 250,
    "models": {"doubao-pro-32k": {"calls": 1, "input_tokens": 200, "output_tokens": 50, "total_tokens": 250}},
}

STEPS = {
    "execution_id": _ID,
    "status": "failed",
    "steps": [
        {
            "id": "classify",
            "agent": "intent_classifier",
            "flow": "llm",
            "status": "completed",
            "attempt": 1,
            "output_key": "intent",
            "started_at": _AT,
            "ended_at": _LATER,
            "model": "doubao-pro-32k",
            "tokens": {"input": 200, "output": 50, "total": 250},
            "usage": _USAGE,
        },
        {
            "id": "answer",
            "agent": "knowledge_answerer",
            "flow": "llm",
            "status": "failed",
            "attempt": 1,
            "output_key": "answer",
            "started_at": _LATER,
            "ended_at": _LATER,
            "error": {
                "type": "ModelUnavailable",
                "message": "The model's server answered 503: overloaded",
                "details": {
                    "pipeline_id": "customer_service_flow",
                    "step_id": "answer",
                    "agent_id": "knowledge_answerer",
                    "flow_id": "llm",
                },
            },
        },
    ],
}

EXECUTIONS = {
    "pending": {"value": {**_AGENT, "status": "pending", "phase": "queued", "attempt": 0}},
    "running": {
        "value": {
            **_PIPELINE,
            "status": "running",
            "phase": "running",
            "attempt": 1,
            "started_at": _AT,
            "progress": {"current_step": 1, "total_steps": 3, "percentage": 33.3, "current_step_name": "extract"},
        }
    },
    "completed": {
        "value": {
            **_AGENT,
            "status": "completed",
            "attempt": 1,
            "started_at": _AT,
            "completed_at": _LATER,
            "outputs": {"output": "Test input", "metadata": {"model_used": "extractive", "tokens_used": 0}},
        }
    },
    "failed": {
        "value": {
            **_AGENT,
            "status": "failed",
            "attempt": 3,
            "started_at": _AT,
            "failed_at": _LATER,
            "error": {
                "type": "ModelUnavailable",
                "message": "The model's server answered 503: overloaded",
                "details": {"agent_id": "mem_l1_summarizer"},
            },
        }
    },
    "cancelled": {"value": {**_AGENT, "status": "cancelled", "attempt": 0, "cancelled_at": _LATER}},
}

PAGE = {
    "executions": [
        {**_AGENT, "status": "completed", "attempt": 1, "started_at": _AT, "completed_at": _LATER},
    ],
    "pagination": {
        "page": 1,
        "page_size": 50,
        "total_items": 1,
        "total_pages": 1,
        "has_next": False,
        "has_prev": False,
    },
}

CANCELLED = {
    "message": "Execution cancelled",
    "data": {"execution_id": _ID, "status": "cancelled", "cancelled_at": _LATER},
}

CANCELLING = {
    "message": "Execution is being cancelled",
    "data": {"execution_id": _ID, "status": "running", "phase": "cancelling"},
}


INDEX = {
    "version": "1.0.0",
    "openapi_url": "/openapi.json",
    "docs_url": "/docs/",
    "endpoints": [{"method": "POST", "path": "/api/v1/executions", "description": "Start an execution"}],
}

AGENT = {
    "id": "mem_l1_summarizer",
    "type": "agent",
    "name": "Level 1 memory summarizer",
    "description": "Condenses a text.",
    "version": "1.0.0",
    "inputs": {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {"text": {"type": "string", "description": "What is to be condensed"}},
        "required": ["text"],
        "additionalProperties": False,
    },
    "flows": [
        {"name": "default", "kind": "python", "isolation": "process", "default": True},
        {"name": "llm", "kind": "prompt", "isolation": "thread", "default": False},
    ],
}

PIPELINE = {
    "id": "customer_service_flow",
    "type": "pipeline",
    "name": "Customer service",
    "description": "Finds out what a customer wants, and answers.",
    "version": "1.0.0",
    "inputs": {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {"customer_query": {"type": "string", "description": "What the customer wrote"}},
        "required": ["customer_query"],
        "additionalProperties": False,
    },
    "steps": [
        {
            "id": "classify",
            "type": "agent_flow",
            "description": "What does the customer want?",
            "agent": "intent_classifier",
            "flow": "default",
            "depends_on": [],
            "required": True,
            "output_key": "intent",
        }
    ],
    "outputs": [{"key": "intent", "label": "What the customer wants"}],
    "variants": [],
}

PROBLEMS: dict[str, tuple[int, str]] = {
    "invalid_request": (400, "The request is not valid."),
    "invalid_json": (400, "The body is not JSON: Expecting value at line 1, column 1."),
    "already_ended": (400, f"Execution {_ID} is already completed, so it can not be cancelled."),
    "not_retryable": (400, f"Execution {_ID} is completed; only a failed or cancelled one can be retried."),
    "unauthorized": (401, "This is no valid key."),
    "forbidden": (403, "This key has not the scope 'start', which is needed here."),
    "not_found": (404, f"There is no execution with the id {_ID}."),
    "precondition_failed": (412, "If-Match or If-Unmodified-Since names another version."),
    "body_too_large": (413, "A body may have 1048576 bytes at most."),
    "unsupported_media_type": (415, "The body must be application/json."),
    "idempotency_key_reused": (422, "This Idempotency-Key was used before, with another body."),
    "rate_limited": (429, "Too many requests: RateLimit-Policy says how many are allowed."),
    "too_many_wrong_keys": (429, "Too many wrong keys came from this address."),
    "too_many_unfinished": (429, "There are 100 pending and running executions already, which is the limit."),
    "too_much_retried": (429, str(TooMuchRetried(268_435_456))),
    "internal_error": (500, "Something went wrong on our side. The request_id finds it in the log."),
    "store_unavailable": (503, "The store can not be reached."),
    "store_full": (503, "The store is full: nothing new can be started."),
    "too_many_large": (503, "Too many large outputs are being sent right now. Try again later."),
    "queue_full": (503, "Too much is waiting to be run: nothing new can be started for now."),
}
"""What each code of a problem looks like."""

_ERRORS = {
    "invalid_request": {
        "field": "config.max_workers",
        "message": "Must be greater than or equal to 1 and less than or equal to 64.",
        "code": "out_of_range",
    },
    "invalid_json": {"field": "", "message": PROBLEMS["invalid_json"][1], "code": "invalid_json"},
}


def problems(codes: Iterable[str]) -> dict[int, dict[str, Any]]:
    """Examples of these problems, by status, as OpenAPI has them."""
    found: dict[int, dict[str, Any]] = {}
    for code in dict.fromkeys(codes):
        found.setdefault(PROBLEMS[code][0], {})[code] = {"value": problem(code)}
    return found


def problem(code: str) -> dict[str, Any]:
    status, detail = PROBLEMS[code]
    body: dict[str, Any] = {
        "type": f"urn:problem:{code.replace('_', '-')}",
        "title": http.HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "instance": "/api/v1/executions",
        "request_id": "5f0c7a9e3b1d4f62",
        "code": code,
    }
    return {**body, "errors": [_ERRORS[code]]} if code in _ERRORS else body
