"""Decides which addresses a webhook may be sent to: by the form of its URL, and by IP address.

A start calls `check`, so that a URL that can never be used is refused at once. The worker calls
`parse` before each try, and `refusal` for every address that the host's name stands for. Nothing
here asks a name server.

The rules are stricter than those of URLs in general. Two programs may read an odd URL in two ways,
and then the one that checks it sees another host than the one that connects.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

MAX_CHARACTERS = 2048

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_PORTS = {"http": 80, "https": 443}

# Characters of RFC 3986. No percent sign: in a host it begins an escape or the zone of an address.
_HOST = re.compile(r"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*")
_REST = re.compile(r"([!$&-;=?-Z_a-z~@]|\[|\]|%[0-9A-Fa-f]{2})*")
_MAX_HOST_CHARACTERS = 253

_LAST_IS_NUMBER = re.compile(r"(.*\.)?([0-9]+|0x[0-9a-f]*)")
"""Such a host is an IPv4 address to everybody, however short and in whichever base."""

_LOCAL_NAMES = re.compile(
    r"(.*\.)?(localhost|localdomain|local|internal|intranet|lan|home|corp|private"
    r"|home\.arpa|ip6-localhost|ip6-loopback|test|invalid|onion)|[^.]+"
)
"""Names that are never public: reserved ones, those of private networks, and all without a dot."""

_OTHER_PORTS = frozenset(
    (
        *(1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060, 5061, 6000, 6566),
        *(6665, 6666, 6667, 6668, 6669, 6679, 6697, 10080),
    )
)
"""Ports above 1023 that browsers refuse too: other protocols that could take HTTP for their own."""

_PRIVATE_V4 = tuple(
    ipaddress.IPv4Network(network)
    for network in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16"),
        *("172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24"),
        *("192.88.99.0/24", "192.168.0.0/16", "192.175.48.0/24", "198.18.0.0/15"),
        *("198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
        "168.63.129.16/32",  # looks public, but is the platform itself to every machine in Azure
    )
)
"""What IANA's registry of special addresses has, and multicast. `is_global` of the standard library
differs between versions of Python and says yes to multicast.
"""

_PUBLIC_V6 = ipaddress.IPv6Network("2000::/3")
"""All public addresses of today. Loopback, mapped and compatible IPv4, NAT64, unique local, link
and site local, and multicast are outside.
"""

_PRIVATE_V6 = tuple(
    ipaddress.IPv6Network(network)
    for network in (
        "2001::/23",  # protocols, among them Teredo, which leads to any IPv4 address
        "2001:db8::/32",
        "2002::/16",  # 6to4: leads to any IPv4 address
        "2620:4f:8000::/48",
        "3fff::/20",
    )
)

_ISATAP = frozenset((0x00005EFE, 0x02005EFE))
"""The third quarter of an address that leads to the IPv4 address in its fourth."""


class UrlRefused(ValueError):
    """The URL cannot be used. The message is one sentence for the caller."""


@dataclass(frozen=True, slots=True)
class CallbackUrl:
    """A URL whose form has been checked, in one spelling.

    `host` is in ASCII and lower case. `target` is the path and the query as they are sent.
    `address` is set if the host is an IP address.
    """

    scheme: str
    host: str
    port: int
    target: str
    address: Address | None = None

    @property
    def text(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == _PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}{self.target}"


def check(url: str, *, allow_private: bool = False) -> str | None:
    """Returns what is wrong with the URL, as one sentence, or None."""
    try:
        parse(url, allow_private=allow_private)
    except UrlRefused as refused:
        return str(refused)
    return None


def parse(url: str, *, allow_private: bool = False) -> CallbackUrl:
    """Reads a URL. Raises `UrlRefused` for its form and, unless private addresses are allowed, for
    an address or a name that is not public.
    """
    parts = _split(url)
    host = _ascii(parts.hostname or "")
    port = _port(parts)
    address = _address(host, "[" in parts.netloc)
    if address is None:
        host = host.removesuffix(".")
        _check_name(host, allow_private)
    elif not allow_private and (reason := refusal(address)):
        raise UrlRefused(reason)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return CallbackUrl(parts.scheme, str(address or host), port, target, address)


def refusal(address: Address) -> str | None:
    """Says in one sentence why no webhook is sent to this address; None if it is public."""
    if isinstance(address, ipaddress.IPv4Address):
        private = any(address in network for network in _PRIVATE_V4)
    else:
        private = (
            address not in _PUBLIC_V6
            or any(address in network for network in _PRIVATE_V6)
            or int(address) >> 32 & 0xFFFFFFFF in _ISATAP
        )
    return f"{address} is not a public address." if private else None


def _split(url: str) -> SplitResult:
    if len(url) > MAX_CHARACTERS:
        raise UrlRefused(f"The URL is longer than {MAX_CHARACTERS} characters.")
    # Before anything is parsed: `urlsplit` removes spaces and line breaks without a word.
    if any(character <= " " or character in "\x7f\\" for character in url):
        raise UrlRefused(
            "The URL must not contain spaces, control characters or backslashes. Escape them (%20)."
        )
    try:
        parts = urlsplit(url)
    except ValueError:
        raise UrlRefused("The URL's host is not valid.") from None
    if parts.scheme not in _PORTS or not url[len(parts.scheme) :].startswith("://"):
        raise UrlRefused("The URL must begin with http:// or https://.")
    if "@" in parts.netloc:
        raise UrlRefused(
            "The URL must not contain a user name or password. Verify the signature instead."
        )
    if "#" in url:
        raise UrlRefused("The URL must not have a fragment (the part from # on).")
    if not _REST.fullmatch(parts.path + parts.query):
        raise UrlRefused("The URL has a character that must be escaped, such as %C3%BC for ü.")
    return parts


def _ascii(host: str) -> str:
    """The host in ASCII and lower case, as `getaddrinfo` gets it."""
    if host.isascii():
        return host.lower()
    if len(host) > _MAX_HOST_CHARACTERS:
        # Some characters become eighteen, and the time grows faster than their number.
        raise UrlRefused("The URL's host is not a valid name.")
    import idna  # its tables are large, and hardly any host needs them

    try:
        # UTS 46 makes digits of full-width and circled ones, as all clients do.
        return idna.encode(host, uts46=True).decode().lower()
    except (idna.IDNAError, UnicodeError):
        raise UrlRefused(
            "The URL's host is not a valid international name. Write it in ASCII (xn--...)."
        ) from None


def _port(parts: SplitResult) -> int:
    found = re.fullmatch(r"(\[[^\]]*\]|[^:\[\]]*)(:([0-9]{1,5}))?", parts.netloc)
    if not found or (found[3] and not 0 < int(found[3]) < 65_536):
        raise UrlRefused("The URL's port must be a number from 1 to 65535.")
    port = int(found[3] or _PORTS[parts.scheme])
    if (port < 1024 and port not in _PORTS.values()) or port in _OTHER_PORTS:
        raise UrlRefused(
            f"Port {port} belongs to another protocol. Use 80, 443, or one from 1024 on."
        )
    return port


def _address(host: str, bracketed: bool) -> Address | None:
    """The host as an IP address, None if it is a name."""
    if "%" in host:
        raise UrlRefused("The URL's host must not contain a percent sign.")
    try:
        if bracketed:
            return ipaddress.IPv6Address(host)
        if not _LAST_IS_NUMBER.fullmatch(host.removesuffix(".")):
            return None
        return ipaddress.IPv4Address(host)
    except ValueError:
        wanted = "IPv6 address" if bracketed else "IPv4 address of four decimal numbers (192.0.2.1)"
        raise UrlRefused(f"The URL's host is not an {wanted}.") from None


def _check_name(host: str, allow_private: bool) -> None:
    if not host:
        raise UrlRefused("The URL has no host.")
    if len(host) > _MAX_HOST_CHARACTERS or not _HOST.fullmatch(host):
        raise UrlRefused("The URL's host is not a valid name.")
    if not allow_private and _LOCAL_NAMES.fullmatch(host):
        raise UrlRefused(f"{host} is the name of a local network or machine, which is not public.")
