"""API keys: their form, where they are stored, and the tenant and scopes that each one grants.

`app.api.access` reads the key of a request and asks here; `flask keys` manages keys.
"""
