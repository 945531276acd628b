"""Holds the application for gunicorn, which the Procfile starts with `gunicorn wsgi:app`."""

from __future__ import annotations

from app import create_app

app = create_app()
