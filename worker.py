"""Starts the workers of this machine: `python worker.py [--threads N] [--processes N]`.

One runs what waits on models, in threads; the other what computes, in processes. They share one process
and one event loop. SIGTERM and Ctrl-C end them: what runs may end within SHUTDOWN_GRACE, the rest is
handed back. SIGHUP reads the agents and pipelines again, for what starts from then on. Exit code 0 after
an end in order, 1 where something is wrong, 2 for a wrong call.
"""

from app.work.main import main

if __name__ == "__main__":
    main()
