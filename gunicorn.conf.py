"""gunicorn's settings. `gunicorn wsgi:app` reads this file from the present folder.

Values come from the service's own settings where an operator may change them. The hooks at the end
are in `app.web.lifecycle`.
"""

from __future__ import annotations

import os
import secrets
import sys
from functools import partial

from app import settings
from app.domain.errors import ConfigurationError
from app.process import file_limit
from app.web import binding, lifecycle

# Made here, in the master, so that all web processes have the same one, also after a reload.
os.environ["SECRET_KEY"] = os.environ.get("SECRET_KEY") or secrets.token_hex(32)

try:
    chosen = settings.load()
except ConfigurationError as error:
    sys.exit(str(error))

host = chosen.host or binding.default_host(chosen)
bind = f"{host}:{chosen.port}"

workers = chosen.web_concurrency
worker_class = "app.web.worker.LoopWorker"  # gevent, with deadlines for slow clients
worker_connections = chosen.web_connections
# The 128 are for connections to the store and for what gunicorn itself opens.
file_limit.raise_to(worker_connections + 128)
backlog = 1024  # clients that wait while a process is replaced
control_socket_disable = True  # it would be a file in HOME, which may be read-only

timeout = 30  # for a process whose event loop is blocked; a single request has no limit
graceful_timeout = 20  # enough for running requests (a cancel takes 5 s); Heroku kills after 30 s
keepalive = 30  # clients that poll keep their connection

limit_request_line = 4094  # the API's own URLs are far shorter
limit_request_fields = 64  # proxies add about a dozen
limit_request_field_size = 8190  # far more than a bearer token needs

# No header of a proxy is trusted: none may set SCRIPT_NAME, the user or the scheme. No answer
# depends on them. With no such headers, "*" only saves the comparison of addresses.
forwarder_headers = ""
secure_scheme_headers: dict[str, str] = {}
forwarded_allow_ips = "*"

sendfile = False  # files are sent in pieces like every answer, so the same deadlines apply
accesslog = None  # a line per request would cost more than the request; refusals are logged

logger_class = lifecycle.logger_class(chosen)
on_starting = partial(lifecycle.on_starting, chosen)
when_ready = partial(lifecycle.when_ready, chosen)
post_fork = lifecycle.post_fork
pre_request = lifecycle.pre_request
post_worker_init = lifecycle.post_worker_init
worker_exit = lifecycle.worker_exit
