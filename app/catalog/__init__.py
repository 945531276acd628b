"""Agents and pipelines: reads their files, checks them, and builds the values that are run.

`load` is called once at the start of each web and worker process. Nothing here runs an agent.
"""

from app.catalog.loader import load

__all__ = ["load"]
