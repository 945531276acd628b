"""Takes the pictures of the dashboard in `docs/`: `python -m tools.screenshots`."""
