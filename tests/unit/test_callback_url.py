"""Which URLs a webhook may be sent to, by their form and by their address."""

# ruff: noqa: RUF001  letters that look like others are what is tested here

from __future__ import annotations

import ipaddress
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.callback_url import MAX_CHARACTERS, check, parse, refusal
from tests.support.cpu_time import cpu_seconds

FORM = {
    "http:// or https://": [
        *("", "a.example.com", "//a.example.com", "/hook", "ftp://a.example.com", "file:///etc/x"),
        *("gopher://a.example.com", "javascript:alert(1)", "data:,x", "ws://a.example.com"),
        *("http:a.example.com", "https:/a.example.com", "httpx://a.example.com", "http"),
    ],
    "no host": ["http://", "http:///hook", "https://?x", "http://:80/"],
    "spaces, control characters or backslashes": [
        *(" http://a.example.com", "http://a.example.com ", "http://a.example.com/a b"),
        *("http://a.example.com/\r\nX: 1", "ht\ntp://a.example.com", "http://a.exam\tple.com"),
        *("\x00http://a.example.com", "http://a.example.com\x7f", "http://127.0.0.1\\@b.example"),
        "http:\\\\a.example.com",
    ],
    "user name or password": [
        *("http://user:word@a.example.com", "http://user@a.example.com", "http://@a.example.com"),
        *("http://a.example.com@127.0.0.1/", "http://a.example.com:80@b.example.com"),
    ],
    "fragment": ["http://a.example.com/#x", "http://a.example.com#", "http://a.example.com#@b.com"],
    "must be escaped": [
        *("http://a.example.com/ü", "http://a.example.com/?q=ü", "http://a.example.com/%"),
        *("http://a.example.com/%zz", "http://a.example.com/<x>", 'http://a.example.com/"'),
        "http://a.example.com/\u202e",
    ],
    "from 1 to 65535": [
        *("http://a.example.com:0", "http://a.example.com:65536", "http://a.example.com:99999"),
        *("http://a.example.com:+80", "http://a.example.com:-1", "http://a.example.com:8o"),
        *("http://a.example.com:80:80", "http://a.example.com:", "http://a.example.com:８０"),
        *("http://[2606:4700::1]x", "http://[2606:4700::1]:x", "http://a.example.com:1000000"),
    ],
    "belongs to another protocol": [
        *("http://a.example.com:22", "http://a.example.com:25", "https://a.example.com:6000"),
        "http://a.example.com:6667",
    ],
    "not a valid name": [
        *("http://a..example.com", "http://.example.com", "http://a.example.com..", "http://a!b.c"),
        *(f"http://{'a' * 64}.example.com", f"http://{'a.' * 130}example.com"),
        *("http://a,b.example.com", "http://a.example.com*"),
    ],
    "percent sign": [
        *("http://%31.example.com", "http://127.0.0.1%00.example.com", "http://a%2eb.example.com"),
        *("http://[fe80::1%25eth0]", "http://[2606:4700::1%251]"),
    ],
    "international name": ["http://a\u200b\u200b..ü.com", "http://\u0660.\u202e.example.com"],
    "URL's host is not": ["http://[]", "http://[1.2.3.4]", "http://[::g]", "http://[v1.x]"],
    "four decimal numbers": [
        *("http://127.1", "http://0x7f.1", "http://2130706433", "http://017700000001", "http://0"),
        *("http://0x7f000001", "http://0177.0.0.1", "http://127.0.1", "http://1.2.3.4.5"),
        *("http://127.0.0.1.", "http://256.1.1.1", "http://127.0.0.0x1", "http://0x", "http://a.1"),
        *("http://00000127.0.0.1", "http://4294967296", "http://０x7f.1", "http://①②⑦.1"),
    ],
}


@pytest.mark.parametrize(
    ("url", "reason"), [(url, reason) for reason, urls in FORM.items() for url in urls]
)
@pytest.mark.parametrize("allow_private", [False, True])
def test_a_url_of_a_wrong_form_is_refused_with_the_reason(
    url: str, reason: str, allow_private: bool
) -> None:
    problem = check(url, allow_private=allow_private)
    assert problem
    assert reason in problem


PRIVATE_V4 = (
    *("0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "100.64.0.1", "100.100.100.200"),
    *("127.0.0.1", "127.255.255.254", "169.254.169.254", "169.254.170.2", "172.16.0.1"),
    *("172.31.255.255", "192.0.0.192", "192.0.2.1", "192.88.99.1", "192.168.0.1", "198.18.0.1"),
    *("198.51.100.7", "203.0.113.9", "224.0.0.1", "239.255.255.250", "240.0.0.1"),
    *("255.255.255.255", "168.63.129.16"),
)

PRIVATE_V6 = (
    *("::", "::1", "::7f00:1", "::127.0.0.1", "::8.8.8.8", "::ffff:127.0.0.1", "::ffff:8.8.8.8"),
    *("::ffff:0:127.0.0.1", "64:ff9b::a9fe:a9fe", "64:ff9b::8.8.8.8", "64:ff9b:1::1"),
    *("100::1", "100:0:0:1::1", "2001::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:2::1"),
    *("2001:10::1", "2001:20::1", "2001:db8::1", "2002:7f00:1::", "2002:a9fe:a9fe::1"),
    *("3fff::1", "5f00::1", "fc00::1", "fd00:ec2::254", "fd20:ce::254", "fe80::1", "fec0::1"),
    *("feff::1", "ff02::1", "ff0e::1", "4000::1", "2620:4f:8000::1"),
    *("2606:4700::5efe:7f00:1", "2606:4700::200:5efe:10.0.0.1"),
)

PUBLIC_V4 = (
    *("8.8.8.8", "1.1.1.1", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0"),
    *("126.255.255.255", "128.0.0.0", "169.253.255.255", "172.15.255.255", "172.32.0.0"),
    *("192.0.1.0", "192.167.255.255", "192.169.0.0", "198.17.255.255", "198.20.0.0"),
    *("223.255.255.255", "168.63.129.15"),
)

PUBLIC_V6 = ("2606:4700::1111", "2001:200::1", "2001:4860:4860::8888", "2a00:1450::1", "2003::1")


@pytest.mark.parametrize("address", [*PRIVATE_V4, *PRIVATE_V6])
def test_an_address_that_is_not_public_is_refused_unless_private_ones_are_allowed(
    address: str,
) -> None:
    url = f"http://[{address}]:8080/hook" if ":" in address else f"http://{address}:8080/hook"
    assert "is not a public address" in str(check(url))
    assert check(url, allow_private=True) is None
    assert refusal(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", [*PUBLIC_V4, *PUBLIC_V6])
def test_a_public_address_is_taken(address: str) -> None:
    assert check(f"http://[{address}]/" if ":" in address else f"http://{address}/") is None


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "LOCALHOST", "localhost.", "a.localhost", "localhost.localdomain"),
        *("ip6-localhost", "printer.local", "metadata.google.internal", "metadata", "redis", "web"),
        *("router.lan", "nas.home.arpa", "db.corp", "x.test", "ｌｏｃａｌｈｏｓｔ", "x.onion"),
    ],
)
def test_a_name_that_is_never_public_is_refused_unless_private_ones_are_allowed(host: str) -> None:
    assert "local network" in str(check(f"http://{host}:8080/"))
    assert check(f"http://{host}:8080/", allow_private=True) is None


@pytest.mark.parametrize("host", ["127。0。0。1", "①②⑦.⓪.⓪.①", "１２７.0.0.1", "127｡0．0.1"])
def test_digits_and_dots_of_other_scripts_are_read_as_every_client_reads_them(host: str) -> None:
    assert check(f"http://{host}/") == "127.0.0.1 is not a public address."


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("http://a.example.com", "http://a.example.com/"),
        ("HTTPS://A.Example.COM:443/Hook?B=%2f", "https://a.example.com/Hook?B=%2f"),
        ("https://a.example.com.:8443/x", "https://a.example.com:8443/x"),
        ("http://a_b.example.com:80?x=1", "http://a_b.example.com/?x=1"),
        ("https://bücher.example.com/%C3%BC", "https://xn--bcher-kva.example.com/%C3%BC"),
        ("https://faß.example.com/", "https://xn--fa-hia.example.com/"),
        ("http://[2606:4700:0:0::1111]:8080/", "http://[2606:4700::1111]:8080/"),
        ("http://8.8.8.8/a;b?[0]=~x@y", "http://8.8.8.8/a;b?[0]=~x@y"),
        ("http://a.example.com/..%2f../x//y", "http://a.example.com/..%2f../x//y"),
    ],
)
def test_a_url_that_is_taken_has_one_spelling(url: str, text: str) -> None:
    assert parse(url).text == text
    assert parse(text).text == text


@pytest.mark.parametrize(
    "unit", ["ü", "\u0300", "\ufdfa", "xn--ü", "\u200d", "ü.", "א", "1", "%", ":", "["]
)
def test_no_host_takes_long_to_check(unit: str) -> None:
    url = f"http://{unit * MAX_CHARACTERS}"[:MAX_CHARACTERS]
    assert check(url)
    assert cpu_seconds(lambda: check(url), calls=10) < 0.02


def test_the_longest_url_is_taken_and_no_longer_one() -> None:
    longest = "https://a.example.com/".ljust(MAX_CHARACTERS, "x")
    assert check(longest) is None
    assert "longer than" in str(check(longest + "x"))


_PARTS = st.one_of(
    st.sampled_from(
        [
            *(
                "http://",
                "https://",
                "127.0.0.1",
                "0x7f",
                "017700000001",
                "[",
                "]",
                "::1",
                "@",
                ":",
            ),
            *("localhost", "a.example.com", ".", "。", "①", "%", "%25", "/", "\\", "#", "?", "80"),
            *("::ffff:", "64:ff9b::", "\t", "xn--", "ß", "\u00ad", "\u200d", "10.0.0.1"),
        ]
    ),
    st.characters(codec="utf-8"),
    st.ip_addresses().map(str),
)


@given(st.lists(_PARTS, max_size=12).map("".join), st.booleans())
def test_no_text_breaks_the_check_or_passes_it_with_a_private_address(
    text: str, with_scheme: bool
) -> None:
    url = f"http://{text}" if with_scheme else text
    if problem := check(url):
        assert problem.endswith(".")
        return
    found = parse(url)
    assert found.text.isascii()
    assert parse(found.text) == found
    if found.address is None:
        # What the system would take for an address must have been taken for one here, too.
        with pytest.raises((OSError, UnicodeError)):
            socket.inet_aton(found.host)
    else:
        assert found.address.is_global


@given(st.ip_addresses())
def test_whatever_the_standard_library_calls_private_is_refused(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    if not address.is_global or address.is_multicast:
        assert refusal(address)
