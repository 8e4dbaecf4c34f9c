"""
Addresses: where a host that came from outside may lead, as far as its spelling tells. Pure; never raises.

A result's link may name anything: this machine, the router, the cloud's own metadata. Python's `is_global` alone would
let through what wraps an address of the house in an IPv6 one, and a proxy resolves names of its own network. So an IPv6
address has to be one that is given out to the world, an IPv4 address has to be written in the one usual way, and a name
has to be one that the public DNS can have. Where such a name leads is for whoever looks it up to ask `reachable`.
"""

import ipaddress
import re

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_NAT64 = ipaddress.ip_network("64:ff9b::/96")  # the whole IPv4 Internet, as a network without IPv4 sees it
_WORLD = ipaddress.ip_network("2000::/3")  # all else is local, reserved, or an IPv4 address in disguise
_NOT_THE_WORLD = (
    ipaddress.ip_network("2001::/32"),  # Teredo, with an IPv4 address inside
    ipaddress.ip_network("2002::/16"),  # 6to4, the same
    ipaddress.ip_network("3fff::/20"),  # for documentation
    ipaddress.ip_network("192.0.0.0/24"),  # for protocols; a cloud's metadata has been seen there
)

_NAME = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*")
# `127.1`, `2130706433`, `0x7f000001` and `0177.0.0.1` are one address, or another, or a name, as one reads them.
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_HOUSE = (
    *(".localhost", ".localdomain", ".local", ".internal", ".intranet", ".private", ".lan", ".home", ".corp"),
    ".home.arpa",
)


def literal(host: str) -> Address | None:
    """The address that a host is written as; an IPv4 address that is mapped into IPv6 is taken out."""
    try:
        address = ipaddress.ip_address(host.rstrip("."))
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, ipaddress.IPv6Address) else address


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine."""
    address = literal(host)
    return address.is_loopback if address else f".{_plain(host)}".endswith(".localhost")


def reachable(address: str, *, loopback: bool) -> bool:
    """Whether an IP address that came from outside may be spoken to. loopback: whether this machine may be."""
    plain = literal(address)
    if plain is None:
        return False
    if plain.is_loopback:
        return loopback
    if isinstance(plain, ipaddress.IPv6Address):
        if plain in _NAT64:
            plain = ipaddress.IPv4Address(int(plain) & 0xFFFFFFFF)
        elif plain not in _WORLD:
            return False
    return plain.is_global and not plain.is_multicast and not any(plain in network for network in _NOT_THE_WORLD)


def objection(host: str, *, loopback: bool) -> str:
    """What is wrong with a host that came from outside, for a sentence; "" where nothing is, as far as it is written.

    host: as it goes out, so punycode and no brackets. loopback: whether this machine may be spoken to.
    """
    if literal(host):
        return "" if reachable(host, loopback=loopback) else "an address in a local network"
    name = _plain(host)
    last = name.rpartition(".")[2]
    if not _NAME.fullmatch(name):
        return "which is no host name"
    if _NUMBER.fullmatch(last):
        return "which may be an address in a local network"
    if is_loopback(host):
        return "" if loopback else "a name of a local network"
    if "." not in name or f".{name}".endswith(_HOUSE):
        return "a name of a local network"
    return ""


def _plain(host: str) -> str:
    return host.rstrip(".").lower()
