"""Starts the workers of this machine: `python worker.py [--threads N] [--processes N]`.

One worker runs executions that wait on models, in threads; the other one runs those that compute,
in processes. Both share this process and its event loop. After SIGTERM or Ctrl-C, running
executions have SHUTDOWN_GRACE seconds to end; the others go back to the queue. SIGHUP reads the
agents and pipelines again, for executions that start from then on. The exit code is 0 after a
normal shutdown, 1 after an error, and 2 for wrong arguments.
"""

import signal

# SIGHUP requests a reload. Until `main` sets a handler, it is ignored: nothing has been loaded yet,
# and the signal's default action would end the process.
signal.signal(signal.SIGHUP, signal.SIG_IGN)

from app.worker.main import main  # noqa: E402  importing takes half a second

if __name__ == "__main__":
    main()
