"""The same server settings as the service's own, without its reaper."""

import os

bind = f"127.0.0.1:{os.environ['PORT']}"
workers = 1
worker_class = "gthread"
threads = 32
control_socket_disable = True
keepalive = 30
loglevel = "error"
