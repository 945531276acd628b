"""The operator's command: `python -m app.admin`. It works across tenants, for whoever can reach the
store; no web process need run.
"""
