"""gunicorn's settings: `gunicorn wsgi:app` reads this file by itself. Its hooks are in
`app.web.lifecycle`.
"""

from __future__ import annotations

import sys
from functools import partial

from app import settings
from app.domain.errors import ConfigurationError
from app.process import file_limit
from app.web import binding, lifecycle

try:
    chosen = settings.load()
except ConfigurationError as error:
    sys.exit(str(error))

host = chosen.host or binding.default_host(chosen)
bind = f"{host}:{chosen.port}"

workers = chosen.web_concurrency
worker_class = "app.web.worker.LoopWorker"  # gevent, with deadlines for slow clients
worker_connections = chosen.web_connections
file_limit.raise_to(
    worker_connections + 128
)  # beside them, those to the store and what gunicorn itself has open
backlog = 1024  # those who wait while a process is replaced
control_socket_disable = True  # it would be a file in HOME, which may be read-only

timeout = 30  # for a process whose loop is held; requests have no limit of their own
graceful_timeout = 20  # what runs may end, and Heroku kills after 30 s; a cancel takes five
keepalive = 30  # polling clients come back within it

limit_request_line = 4094  # the longest address that the API answers is far shorter
limit_request_fields = 64  # proxies add a dozen
limit_request_field_size = 8190  # a bearer token with room to spare
forwarder_headers = (
    ""  # no header may say where the application is mounted (SCRIPT_NAME) or who is logged in
)
secure_scheme_headers: dict[str, str] = {}  # nor that it came by TLS, which changes no answer
forwarded_allow_ips = "*"  # so no address is looked up among those that may say it: none may
sendfile = (
    False  # a file is read piece by piece, like every answer, so that one deadline holds for all
)
accesslog = (
    None  # a line a request costs more than the request; refusals are logged by the application
)

logger_class = lifecycle.logger_class(chosen)
on_starting = partial(lifecycle.on_starting, chosen)
when_ready = partial(lifecycle.when_ready, chosen)
pre_request = lifecycle.pre_request
post_worker_init = lifecycle.post_worker_init
worker_exit = lifecycle.worker_exit
