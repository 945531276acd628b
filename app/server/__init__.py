"""gunicorn's thread worker, made so that a slow client never has a thread. Knows HTTP's framing, not the API.

gunicorn lets a thread read the request it serves and write its answer, so a few clients that drip hold all
threads. Here the event loop collects each request first, within a deadline, and sends what a client does not
take at once; a thread reads from memory, and writes there.
"""

from app.server.worker import PatientWorker

__all__ = ["PatientWorker"]
