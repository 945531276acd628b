"""The language of prompts: placeholders in three styles, in a sandbox of bounded cost.

`scanner` cuts a prompt into pieces, `compiler` makes a Jinja template of them, and `guard` puts the
checks of `sandbox` into it. `app.catalog.agents` compiles every prompt at load to find mistakes;
`app.runtime.templates` renders it for a run.
"""
