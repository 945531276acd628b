"""`app.worker.watchdog`: a test blocks a worker's event loop, and the log names the place."""

from __future__ import annotations

import asyncio
import time

import structlog

from app.worker.watchdog import HELD_SECONDS, Watchdog


def events_while(held_seconds: float) -> list[dict[str, object]]:
    async def hold() -> None:
        watchdog = Watchdog()
        watchdog.start()
        await asyncio.sleep(0.3)
        if held_seconds:
            time.sleep(held_seconds)
        await asyncio.sleep(0.3)
        watchdog.close()

    with structlog.testing.capture_logs() as logs:
        asyncio.run(hold())
    return [dict(entry) for entry in logs if entry["event"] == "event_loop_held"]


def test_a_loop_that_is_held_is_told_once_with_the_place() -> None:
    [event] = events_while(HELD_SECONDS * 4)
    assert any("test_watchdog.py" in place and "hold" in place for place in event["at"])  # type: ignore[attr-defined]
    assert float(event["seconds"]) >= HELD_SECONDS  # type: ignore[arg-type]


def test_a_loop_with_nothing_to_do_is_not_held() -> None:
    assert events_while(0) == []
