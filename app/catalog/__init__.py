"""What can be run: agents and pipelines, read from files, checked, impossible to build wrong."""

from app.catalog.loader import load

__all__ = ["load"]
