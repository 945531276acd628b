"""Runs a whole service under load while a seeded random script breaks its parts: `make chaos`.

At the end it checks every accepted execution: it must exist, must have ended once, in a status that
agrees with every answer, with the outputs of the attempt that won. Flows write their side effects
into files. These show whether two runs of one execution overlapped, whether one continued after
`cancelled`, and how long it took from the last line of a lost run until its execution moved on.
Listeners follow streams, wait for ends and receive webhooks: what they heard must be true.
Prints tables, and exits with 1 if a promise was broken.

    python -m tests.chaos --seconds 60 --seed 7
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path

from tests.chaos.breaker import Breaker
from tests.chaos.listeners import SETTINGS, Listeners
from tests.chaos.load import Load
from tests.chaos.verdict import Verdict
from tests.support.proxy import Proxy
from tests.support.receiver import Receiver
from tests.support.service import Service
from tools.embedded_store import EmbeddedStore

WORKERS = 2
CLIENTS = 4


def run(folder: Path, seed: int, seconds: float) -> bool:
    """Returns whether every promise was kept."""
    choose = random.Random(seed)
    (folder / "service").mkdir()
    # With `always`, a crash of the store loses nothing, so nothing accepted may be missing.
    store = EmbeddedStore(folder / "store", args=["--appendfsync", "always"])
    store.start()
    try:
        with (
            Proxy(store.url.removeprefix("unix://")) as proxy,
            Receiver() as receiver,
            Service(
                proxy.url,
                folder / "service",
                workers=WORKERS,
                CANCEL_GRACE=1,
                **SETTINGS,
            ) as service,
        ):
            listeners = Listeners(service.url, receiver)
            load = Load(service, folder, choose, listeners)
            breaker = Breaker(service, store, proxy, load, choose)
            load.start(CLIENTS)
            breaker.break_things(seconds)
            load.stop()
            return Verdict.gather(service, store, load, breaker, listeners).report()
    finally:
        store.stop()


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Breaks a service at random, and checks what it promised."
    )
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument(
        "--keep",
        type=Path,
        help="a new folder for the logs and data of all processes, to look at afterwards",
    )
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    options = parser.parse_args()
    print(f"seed {options.seed}, {options.seconds:g} s", flush=True)
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        if options.keep:
            options.keep.mkdir()
        held = run(options.keep or Path(folder), options.seed, options.seconds)
    print(f"\nseed {options.seed}: " + ("every promise held" if held else "a promise was broken"))
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
