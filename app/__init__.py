"""Builds the web application: `create_app` connects settings, catalog, services and views.

`wsgi.py`, Flask's command line and the tests call it. Importing this package starts nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flask import Flask

    from app.services.executions import ExecutionService
    from app.settings import Settings


def create_app(settings: Settings | None = None, service: ExecutionService | None = None) -> Flask:
    """Builds the application. Tests may pass their own `settings` and `service`.

    Raises `ConfigurationError` if a setting, an agent or a pipeline is wrong. It does not need the
    store: requests get a 503 until the store answers.
    """
    # Imported here, since workers import this package too and do not need a web framework.
    from app import api, catalog, pages
    from app.api import key_commands as commands
    from app.services.authentication import Authenticator
    from app.services.executions import ExecutionService
    from app.settings import load
    from app.store.executions import ExecutionStore
    from app.store.keys import KeyStore
    from app.telemetry import logs

    settings = settings or load()
    logs.configure(settings.log_level, settings.secrets)
    if service is None:
        targets = catalog.load(settings.agents_path, settings.pipelines_path)
        service = ExecutionService(ExecutionStore.connect(settings), targets, settings)
    keys = KeyStore.connect(settings)
    app = api.build(settings, service, Authenticator(settings, keys))
    if settings.ui:
        pages.register(app, settings)
    app.cli.add_command(commands.group(settings, keys))
    return app
