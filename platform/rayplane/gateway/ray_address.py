"""Addresses of Ray clusters that others run: parse them, and decide which the platform may connect to. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import urlsplit

from rayplane.errors import InvalidInput, InvalidSpec

IP = IPv4Address | IPv6Address

SETTING = "RAYPLANE_EXISTING_ADDRESSES"

_NEVER = tuple(
    ip_network(text)
    for text in (
        "169.254.0.0/16",  # link-local, and with it the metadata service of most clouds
        "fe80::/10",
        "fd00:ec2::254/128",  # metadata: AWS over IPv6
        "fd20:ce::254/128",  # Google over IPv6
        "100.100.100.200/32",  # Alibaba
        "192.0.0.192/32",  # Oracle
        "168.63.129.16/32",  # Azure's host
        "0.0.0.0/8",  # "this host", which Linux takes for loopback
        "::/128",
        "224.0.0.0/4",
        "ff00::/8",
        "255.255.255.255/32",
    )
)
_NAT64 = (ip_network("64:ff9b::/96"), ip_network("64:ff9b:1::/48"))
_COMPATIBLE = ip_network("::/96")
_LABEL = r"(?!-)[a-z0-9_-]{1,63}(?<!-)"
_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*\.?")
_ENTRY = re.compile(r"(?:\[(?P<six>[0-9a-f:.]+(?:/\d+)?)\]|(?P<other>[^\[\]:]+))(?::(?P<port>\d{1,5}))?")


@dataclass(frozen=True)
class Address:
    """The address of a dashboard: scheme, host and port. Two spellings of one address are equal."""

    scheme: str
    host: str
    """A name in lower case, or an IP address without brackets."""
    port: int

    def __str__(self) -> str:
        return f"{self.scheme}://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


def parse(text: str) -> Address:
    """Parse the address from a URL. Raises InvalidSpec for anything but a dashboard's base URL.

    The error does not repeat a password.
    """
    remedy = "Write the dashboard's base URL alone, such as http://host:8265."
    if any(ord(c) <= 32 or ord(c) >= 127 or c == "\\" for c in text):
        raise InvalidSpec(
            "cluster.address: it has blanks, control characters or others that no URL has.", remedy=remedy
        )
    try:
        parts = urlsplit(text)
        host, port = (parts.hostname or "").removesuffix("."), parts.port
    except ValueError as exc:  # its message may hold the password
        raise InvalidSpec("cluster.address: it is not a URL.", remedy=remedy) from exc
    if "@" in parts.netloc:
        raise InvalidSpec(
            "cluster.address: it holds a user or a password, which specs never do.",
            remedy="Leave them out; the platform's admin places the cluster's Ray token as a file.",
        )
    if parts.scheme not in ("http", "https"):
        raise InvalidSpec(f"cluster.address: '{text}' is not a URL of http or https.", remedy=remedy)
    if parts.path not in ("", "/") or "?" in text or "#" in text:
        raise InvalidSpec(
            f"cluster.address: '{text}' has a path, a query or a fragment, which a dashboard's base URL has not.",
            remedy=remedy,
        )
    if port == 0 or not (_is_ip(host) or _NAME.fullmatch(host)):
        raise InvalidSpec(f"cluster.address: '{text}' names no host, or no port of one.", remedy=remedy)
    return Address(parts.scheme, host, port or (443 if parts.scheme == "https" else 80))


class AllowList:
    """The addresses that the settings allow."""

    def __init__(self, entries: Iterable[str]) -> None:
        """Raises InvalidInput for an entry that is neither a network, an address nor a name."""
        self._rules = [_rule(entry) for entry in entries]

    def allows(self, host: str, ip: IP, port: int) -> bool:
        """True if the settings allow ``ip``, to which ``host`` resolves now, at this port; see also ``refusal``."""
        plain = _plain(ip)
        return any(
            rule.port in (None, port)
            and (
                rule.names(host)
                if rule.network is None
                else plain.version == rule.network.version and plain in rule.network
            )
            for rule in self._rules
        )


def refusal(ip: IP) -> str:
    """The reason why the platform never connects to this IP address, for any caller; empty if there is none."""
    for one in _embedded(ip):
        if any(one.version == network.version and one in network for network in _NEVER):
            return f"{ip} is link-local, a cloud's metadata service, or no single host"
    return ""


@dataclass(frozen=True)
class _Rule:
    network: IPv4Network | IPv6Network | None
    name: str
    """A host's name, or ``*.`` and a domain; empty for a network."""
    port: int | None

    def names(self, host: str) -> bool:
        if self.name.startswith("*."):
            return host.endswith(self.name[1:])
        return host == self.name


def _rule(entry: str) -> _Rule:
    text = entry.strip().lower()
    wrong = InvalidInput(
        f"{SETTING}: '{entry}' is neither a network, an address nor a name.",
        remedy="Write such as 10.1.0.0/16, 10.1.2.3:8265, [fd12::/16]:8265, ray.example.org or *.ray.example.org:8265.",
    )
    if text.count(":") > 1 and not text.startswith("["):
        text = f"[{text}]"
    match = _ENTRY.fullmatch(text)
    port = int(match["port"]) if match is not None and match["port"] else None
    if match is None or (port is not None and not 0 < port < 65536):
        raise wrong
    host = match["six"] or match["other"]
    try:
        return _Rule(ip_network(host), "", port)
    except ValueError:
        # "10.1" and "10.1.2.3/8" are mistakes, not names: the last label of a name is not a number.
        if match["six"] or host.rpartition(".")[2].isdecimal() or not _NAME.fullmatch(host.removeprefix("*.")):
            raise wrong from None
    return _Rule(None, host, port)


def _is_ip(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return "%" not in host


def _plain(ip: IP) -> IP:
    """The IPv4 address that an IPv4-mapped IPv6 address wraps; any other address itself."""
    return (ip.ipv4_mapped if isinstance(ip, IPv6Address) else None) or ip


def _embedded(ip: IP) -> Iterator[IP]:
    """Yield the address, and the IPv4 addresses that are reached through it (mapped, 6to4, Teredo, NAT64)."""
    yield ip
    if isinstance(ip, IPv4Address):
        return
    yield from (other for other in (ip.ipv4_mapped, ip.sixtofour, *(ip.teredo or ())) if other is not None)
    if any(ip in network for network in _NAT64) or (ip in _COMPATIBLE and int(ip) > 1):
        yield IPv4Address(int(ip) & 0xFFFFFFFF)
