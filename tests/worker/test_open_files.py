"""A low limit of open files: each model call needs one."""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path

from tests.support.model_server import Answer, ModelServer
from tests.support.service import Service


def test_a_worker_raises_a_small_limit_of_open_files(
    make_service: Callable[..., Service], tmp_path: Path
) -> None:
    (tmp_path / "agents/asker/prompts").mkdir(parents=True)
    (tmp_path / "agents/asker/agent.yaml").write_text("flows:\n  - {name: main, file: ask.yaml}\n")
    (tmp_path / "agents/asker/prompts/ask.yaml").write_text("user_template: 'Hello {text}'\n")
    with ModelServer() as model:
        model.reply = lambda _: Answer(text="hello", delay_seconds=2)
        service = make_service(
            workers=0,
            agents=tmp_path / "agents",
            WORKER_THREADS=300,
            WORKER_PROCESSES=0,
            OPENAI_BASE_URL=model.url,
            OPENAI_API_KEY="x",
        )
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))  # inherited by what is started now
        try:
            service.start_worker()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        ids = [service.start("asker", {"text": str(number)}) for number in range(300)]
        assert {service.ended(id, seconds=50)["status"] for id in ids} == {"completed"}
