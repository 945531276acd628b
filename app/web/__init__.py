"""How gunicorn serves the application: one event loop in each web process. Knows sockets, not the
API.

A request, and a client that waits or drips, costs a greenlet, never a thread.
"""
