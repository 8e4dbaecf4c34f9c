"""
HTTP: the connections through which the daemon meets the outside.

Promises: https only (plain http on this machine only, and only where the API itself is on it); no redirect is followed
unless `follow` is asked, and then at most three, each looked at like the first; an address that came from outside never
leads into the local network; HTTPS_PROXY and NO_PROXY are honoured, and no proxy ever sees a loopback address.

One hole remains. A proxy looks names up for itself: what is looked up here before it is asked may lead elsewhere there,
by chance (another DNS) or by intent (a name that is answered in another way each time), and where this machine has no
DNS only the spelling of a name is judged. Whoever runs such a proxy has to keep it out of the local network.

Fails only as Fault. Where a paid create fails, the fault says whether it provably never left the house.
"""

import asyncio
import os
import socket
import urllib.request
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from urllib.parse import urljoin

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from daemon import __version__
from daemon.adapters.addresses import is_loopback, objection, reachable
from daemon.adapters.answers import one_line
from daemon.ports import Clock
from daemon.rules.faults import Blame, Created, Fault, Gate, Outlook

SESSION_SECONDS_MAX = 4 * 3600.0  # A connection has no maximum age of its own: an address that moved is found again.
SESSION_ERRORS_MAX = 3  # So many failures in a row, and the next request gets a new session.
CONNECT_SECONDS_MAX = 20.0
LOOK_UP_SECONDS_MAX = 5.0  # Where only a proxy leads outside, the DNS may be silent; the proxy is asked all the same.
REDIRECTS_MAX = 3
REDIRECTS = frozenset({301, 302, 303, 307, 308})

# Everything that aiohttp and what lies below it may raise for reasons outside this program.
FOREIGN = (aiohttp.ClientError, HttpProcessingError, TimeoutError, OSError, ValueError)

# Raised while connecting, when not a byte of the request has left.
_UNSENT = (
    aiohttp.ClientConnectorError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.ClientHttpProxyError,
    aiohttp.InvalidURL,
    aiohttp.NonHttpUrlClientError,
)

# What getaddrinfo says that no network mends: the name is nowhere.
_NOWHERE = frozenset({socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)})
_NETWORK = "Look at the network, the DNS settings and the proxy of this machine; it goes on by itself when they work."


class Lane(StrEnum):
    """What a request is for; each has a session of its own."""

    CREATE = "create"  # paid: a connection of its own, so that a stale one cannot leave it in doubt
    API = "api"  # all other calls
    FILES = "files"  # addresses that came from outside: results and uploads
    PROXIED = "proxied"  # the same through a proxy, which is reached by its own address and resolves for itself


@dataclass(frozen=True, slots=True)
class Peer:
    """Whom a request goes to. name: begins a sentence. gate: what stands still while it cannot be reached."""

    name: str
    gate: Gate

    @property
    def gate_of_one(self) -> Gate | None:
        """The gate where the address itself is wrong: each result has one of its own, so others need not wait."""
        return None if self.gate is Gate.FETCH else self.gate


# A name, a port and a family, to what getaddrinfo gives for them.
LookUp = Callable[[str, int, int], Awaitable[list[Any]]]


@dataclass(slots=True)
class _Session:
    client: aiohttp.ClientSession
    born: float
    users: int = 0
    errors: int = 0
    retired: bool = False


class Http:
    """Sessions by lane, made inside the loop when first needed and renewed every few hours or after repeated errors."""

    def __init__(self, clock: Clock, *, insecure_loopback: bool, look_up: LookUp | None = None) -> None:
        """insecure_loopback: the API itself is on this machine, so plain http and results on loopback are right.

        look_up: how names from outside are looked up; by the system where it is None.
        """
        self._clock = clock
        self._guard = _Guard(look_up or _look_up, loopback=insecure_loopback)
        self._insecure_loopback = insecure_loopback
        self._sessions: dict[Lane, _Session] = {}

    @asynccontextmanager
    async def request(
        self,
        lane: Lane,
        method: str,
        url: str,
        peer: Peer,
        *,
        seconds: float,
        stall_seconds: float | None = None,
        headers: Mapping[str, str] | None = None,
        data: bytes | AsyncIterable[bytes] | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """One request; the response is open inside the `async with`, and what goes wrong in there is mapped too.

        seconds: for everything, the body included. stall_seconds: without a single byte. url: taken verbatim, as a
        signature does not survive a new encoding.
        """
        target = self._admitted(lane, url, peer)
        proxy = _proxy(target)
        session_lane = Lane.PROXIED if lane is Lane.FILES and proxy else lane
        session = await self._session(session_lane)
        session.users += 1
        limits = aiohttp.ClientTimeout(
            total=None, connect=min(CONNECT_SECONDS_MAX, seconds / 2), sock_read=stall_seconds
        )
        try:
            async with asyncio.timeout(seconds):
                if session_lane is Lane.PROXIED:
                    await self._guard.look(target.raw_host or "", target.port or 0)
                async with session.client.request(
                    method, target, headers=headers, data=data, proxy=proxy, timeout=limits, allow_redirects=False
                ) as response:
                    yield response
            session.errors = 0
        except FOREIGN as error:
            session.errors += 1
            # The foreign exception may carry the URL with its signature, so it is not chained.
            raise _fault(error, one_line(target.raw_host or ""), peer, paid=lane is Lane.CREATE) from None
        finally:
            session.users -= 1
            await _close_when_idle(session)

    @asynccontextmanager
    async def follow(
        self, url: str, peer: Peer, *, seconds: float, stall_seconds: float
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """GET a file from outside, through at most three redirects. seconds: for each of them."""
        for _ in range(REDIRECTS_MAX + 1):
            async with self.request(
                Lane.FILES, "GET", url, peer, seconds=seconds, stall_seconds=stall_seconds
            ) as response:
                if response.status not in REDIRECTS:
                    yield response
                    return
                url = urljoin(url, response.headers.get("Location", ""))
        raise Fault(f"{peer.name} redirects more than {REDIRECTS_MAX} times.", blame=Blame.SERVICE)

    async def close(self) -> None:
        """Close all sessions; a later request makes new ones."""
        sessions, self._sessions = list(self._sessions.values()), {}
        for session in sessions:
            await session.client.close()

    async def _session(self, lane: Lane) -> _Session:
        now = self._clock.monotonic()
        session = self._sessions.get(lane)
        if session and (now - session.born > SESSION_SECONDS_MAX or session.errors >= SESSION_ERRORS_MAX):
            # Requests that are under way keep the old session until the last of them is over.
            session.retired = True
            del self._sessions[lane]
            await _close_when_idle(session)
        if lane not in self._sessions:
            self._sessions[lane] = _Session(client=self._client(lane), born=now)
        return self._sessions[lane]

    def _client(self, lane: Lane) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(
            force_close=lane is not Lane.API, resolver=self._guard if lane is Lane.FILES else None
        )
        # Not trust_env: it would also send passwords from ~/.netrc, to result hosts too, and proxy loopback addresses.
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": f"esrgand/{__version__}"},
        )

    def _admitted(self, lane: Lane, url: str, peer: Peer) -> URL:
        try:
            target = URL(url, encoded=url.isascii() and url.isprintable() and " " not in url)
            host = target.host or ""
        except ValueError:
            host = ""
        if not host:
            raise _forbidden(peer, "is given by something that is not a web address")
        local = is_loopback(host)
        if target.scheme != "https" and not (target.scheme == "http" and local and self._insecure_loopback):
            raise _forbidden(peer, f"at {one_line(host)} would be spoken to without encryption")
        if lane is Lane.FILES and (wrong := objection(target.raw_host or "", loopback=self._insecure_loopback)):
            raise _forbidden(peer, f"is given as {one_line(host)}, {wrong}")
        return target


class _ForbiddenAddress(OSError):
    """A name from outside leads into the local network."""


async def _look_up(host: str, port: int, family: int) -> list[Any]:
    # All that it has, not only what this machine could reach: a proxy may reach more.
    return await asyncio.get_running_loop().getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM)


class _Guard(AbstractResolver):
    """Resolves names and refuses those that lead where `reachable` says no; what was checked is connected to."""

    def __init__(self, look_up: LookUp, *, loopback: bool) -> None:
        self._look_up = look_up
        self._loopback = loopback

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._look_up(host, port, family)
        if not all(reachable(address[0], loopback=self._loopback) for *_, address in found):
            raise _ForbiddenAddress
        flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        return [
            ResolveResult(hostname=host, host=address[0], port=port, family=kind, proto=proto, flags=flags)
            for kind, _, proto, _, address in found
        ]

    async def look(self, host: str, port: int) -> None:
        """The same for a name that a proxy will resolve; one that is not found here passes."""
        try:
            async with asyncio.timeout(LOOK_UP_SECONDS_MAX):
                await self.resolve(host, port, socket.AF_UNSPEC)
        except _ForbiddenAddress:
            raise
        except OSError:  # A timeout is one.
            pass

    async def close(self) -> None:
        """Nothing is open."""


def _proxy(target: URL) -> str | None:
    host = target.host or ""
    if is_loopback(host) or urllib.request.proxy_bypass(f"{host}:{target.port}"):
        return None
    proxy = urllib.request.getproxies().get(target.scheme)
    return f"http://{proxy}" if proxy and "://" not in proxy else proxy or None


async def _close_when_idle(session: _Session) -> None:
    if session.retired and session.users == 0:
        await session.client.close()


def _forbidden(peer: Peer, words: str) -> Fault:
    return Fault(
        f"{peer.name} {words}; it is not used.",
        blame=Blame.SERVICE,
        outlook=Outlook.LASTING,
        gate=peer.gate_of_one,
        remedy="Use an https address that is reachable from outside; plain http is for an API on this machine alone.",
    )


def _fault(error: BaseException, host: str, peer: Peer, *, paid: bool) -> Fault:
    """The one place where a foreign exception of a request becomes a fault."""
    if isinstance(error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error, _ForbiddenAddress):
        return _forbidden(peer, f"at {host} has an address in a local network")
    said, remedy, outlook = _explained(error, host, peer.name)
    return Fault(
        said,
        blame=Blame.SERVICE,
        outlook=outlook,
        remedy=remedy,
        gate=peer.gate_of_one if _is_about_one(error, host) else peer.gate,
        created=Created.MAYBE if paid and not isinstance(error, _UNSENT) else Created.NO,
    )


def _is_about_one(error: BaseException, host: str) -> bool:
    """Whether it is this address that is wrong, and another one may work: whoever wrote it alone could stop all others.

    A host that refuses or is silent is about all, as most results come from one.
    """
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return 400 <= error.status < 500 and error.status != 407
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return one_line(error.host) == host  # Not the proxy's own.
    if isinstance(error, aiohttp.ClientConnectorError):
        return error.os_error.errno in _NOWHERE and one_line(error.host or "") == host
    return isinstance(error, ValueError)  # An invalid URL is one.


def _explained(error: BaseException, host: str, name: str) -> tuple[str, str, Outlook]:
    if isinstance(error, aiohttp.ClientHttpProxyError):
        remedy = "Look at HTTPS_PROXY: the proxy's user and password, and whether it allows this host."
        return f"The proxy does not let us through to {host} (status {error.status}).", remedy, Outlook.PASSING
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        remedy = "Look at the clock of this machine, its certificate authorities, and who answers under this name."
        return f"{name} at {host} cannot be trusted: its TLS certificate is not valid.", remedy, Outlook.LASTING
    if isinstance(error, aiohttp.ClientSSLError):
        return f"{name} at {host} cannot be reached: no encrypted (TLS) connection.", _NETWORK, Outlook.PASSING
    if isinstance(error, aiohttp.ClientConnectorError):
        # The connection that failed may be the one to the proxy.
        there = one_line(error.host or "")
        where = f"{name} at {host}" if there == host else f"The proxy at {there}"
        return f"{where} cannot be reached: {_os_words(error.os_error)}.", _NETWORK, Outlook.PASSING
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return f"{name} at {host} cannot be reached: no answer to the connection.", _NETWORK, Outlook.PASSING
    if isinstance(error, TimeoutError):
        return f"{name} at {host} did not answer in time.", _NETWORK, Outlook.PASSING
    if isinstance(error, aiohttp.ClientConnectionError | aiohttp.ClientPayloadError):
        return f"{name} at {host} cut the connection.", _NETWORK, Outlook.PASSING
    return f"{name} at {host} cannot be spoken to ({type(error).__name__}).", _NETWORK, Outlook.PASSING


def _os_words(error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return "its name cannot be looked up just now" if error.errno == socket.EAI_AGAIN else "name not found"
    return os.strerror(error.errno).lower() if error.errno else "no connection"
