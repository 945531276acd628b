"""Keeps webhooks away from addresses that are not public (SSRF), at the moment of connecting.

A name may stand for another address each time it is looked up (DNS rebinding). So the addresses
that `Resolver` has checked are the very ones that `sender` connects to: aiohttp gets them in place
of the name, which is not looked up again, and still uses the name for TLS and the Host header.
`open_socket` checks once more, because aiohttp asks no resolver for hosts that are addresses.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress

from aiohttp.abc import AbstractResolver, ResolveResult

from app.domain.callback_url import refusal

MAX_LOOKUPS = 64
"""Lookups at the same time, in one thread each. A thread waits as long as the system's resolver
does, which a slow name server can make half a minute; further lookups wait for a free one.
"""

MAX_ADDRESSES = 8
"""How many addresses of a name are tried."""

RECEIVE_BUFFER_BYTES = 16 * 1024
"""The kernel's buffer for what comes. It bounds what is parsed in one piece while the event loop
does nothing else.
"""

LookUp = Callable[[str, int], Sequence[str]]
"""Returns the addresses of a name, for a port. It may block, and raises `OSError`."""


class AddressRefused(OSError):
    """A connection to an address that is not public. The message is one sentence.

    An `OSError`, because aiohttp then handles it like any other failure to connect.
    """


class NameUnknown(OSError):
    """The name has no address, or no name server answered."""


def look_up(name: str, port: int) -> Sequence[str]:
    """The addresses of a name, as the system finds them."""
    found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    return [str(info[4][0]) for info in found]


class Resolver(AbstractResolver):
    """Looks names up without blocking the event loop, and refuses names with a private address."""

    def __init__(self, *, allow_private: bool, look_up: LookUp = look_up):
        self._allow_private = allow_private
        self._look_up = look_up
        self._free = asyncio.Semaphore(MAX_LOOKUPS)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Raises `AddressRefused` if any address of the name is not public, and `NameUnknown`."""
        try:
            found = list(dict.fromkeys(await self._in_thread(host, port)))
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise NameUnknown(f"The name {host} cannot be resolved: {reason}.") from error
        if not found:
            raise NameUnknown(f"The name {host} has no address.")
        for address in found:
            if not self._allow_private:
                check_address(address, host)
        return [_result(host, address, port) for address in found[:MAX_ADDRESSES]]

    async def close(self) -> None:
        """Does nothing. Threads that still wait for a name server end by themselves."""

    async def _in_thread(self, host: str, port: int) -> Sequence[str]:
        # Not the loop's own threads: the worker uses them for other work, and waits for them at
        # its end.
        await self._free.acquire()
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Sequence[str]] = loop.create_future()

        def finish(found: Sequence[str] | None, error: Exception | None) -> None:
            self._free.release()
            if done.cancelled():  # the try took too long
                return
            if error is not None:
                done.set_exception(error)
            else:
                done.set_result(found or ())

        def work() -> None:
            found, failed = None, None
            try:
                found = self._look_up(host, port)
            except Exception as error:
                failed = error
            with suppress(RuntimeError):  # the loop has ended meanwhile, and nobody waits
                loop.call_soon_threadsafe(finish, found, failed)

        try:
            threading.Thread(target=work, name="webhook-lookup", daemon=True).start()
        except RuntimeError as error:  # the machine has no room for another thread
            self._free.release()
            raise OSError(str(error)) from error
        return await done


def check_address(text: str, host: str) -> None:
    """Raises `AddressRefused` if the address, which `host` stands for, is not public."""
    try:
        reason = refusal(ipaddress.ip_address(text))
    except ValueError:
        reason = f"{text} is not an IP address."
    if reason:
        stands_for = "" if host == text else f"{host} stands for {text}. "
        raise AddressRefused(f"{stands_for}{reason}")


def socket_opener(*, allow_private: bool) -> Callable[[tuple[object, ...]], socket.socket]:
    """Returns what makes aiohttp's sockets. It gets the address that is about to be connected."""

    def open_socket(info: tuple[object, ...]) -> socket.socket:
        family, kind, protocol, _, address = info
        assert isinstance(address, tuple)
        if not allow_private:
            check_address(address[0], address[0])
        opened = socket.socket(family, kind, protocol)  # type: ignore[arg-type]  # as getaddrinfo has them
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        return opened

    return open_socket


def _result(host: str, address: str, port: int) -> ResolveResult:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return ResolveResult(
        hostname=host,
        host=address,
        port=port,
        family=family,
        proto=socket.IPPROTO_TCP,
        flags=socket.AI_NUMERICHOST,
    )
