"""Serves the application with gunicorn and gevent: one event loop in each web process.

`gunicorn.conf.py` names what gunicorn uses from here. These modules handle sockets and processes,
and know nothing of the API. Each request and each slow client has a greenlet, never a thread.
"""
