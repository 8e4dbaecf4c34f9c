"""
Outbound: the server's own requests, for input pictures and webhooks.

Proxies from the environment are honoured, except for this machine itself. Nothing of ours is sent along: no key, no
cookies. Every failure of a fetch is an `UpscaleError` without the URL in it, for a URL may carry a signature; a full
disk is the writer's `OSError`. The URLs come from whoever holds the server's key, private addresses included.
"""

import ipaddress

import aiohttp
from yarl import URL

from daemon.server.store import Write
from daemon.server.upscaler import UpscaleError

FETCH = aiohttp.ClientTimeout(total=300, sock_connect=10, sock_read=30)
DELIVERY = aiohttp.ClientTimeout(total=30, sock_connect=10)
REDIRECTS_MAX = 3
CHUNK_BYTES = 256 * 1024
# The statuses of a file host that mean "later".
PASSING = {408, 425, 429, 500, 502, 503, 504}


class Outbound:
    """Two sessions: one that knows the environment's proxies and one that does not."""

    def __init__(self) -> None:
        self._direct: aiohttp.ClientSession | None = None
        self._proxied: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Call once, in the loop that will use it."""
        self._direct = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())
        self._proxied = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), trust_env=True)

    async def close(self) -> None:
        """Let go of all connections."""
        for session in (self._direct, self._proxied):
            if session is not None:
                await session.close()

    async def fetch(self, text: str, write: Write, bytes_max: int) -> None:
        """Hand the body behind a URL to `write`, piece by piece."""
        # An address in plain ASCII is sent as it is: a signature covers its every character.
        url = URL(text, encoded=text.isascii())
        try:
            async with self._session(url).get(url, timeout=FETCH, max_redirects=REDIRECTS_MAX) as answer:
                if answer.status != 200:
                    passing = answer.status in PASSING
                    said = f"The input image could not be fetched: its host answered {answer.status}"
                    raise UpscaleError(said, passing, "NETWORK_ERROR" if passing else "")
                size = 0
                async for chunk in answer.content.iter_chunked(CHUNK_BYTES):
                    size += len(chunk)
                    if size > bytes_max:
                        raise UpscaleError(f"The input image has more than {bytes_max} bytes", retryable=False)
                    await write(chunk)
        except (TimeoutError, aiohttp.ClientError, ConnectionError, ValueError) as error:
            said = f"The input image could not be fetched: {type(error).__name__}"
            raise UpscaleError(said, retryable=True, code="NETWORK_ERROR") from None

    async def post(self, text: str, body: bytes, headers: dict[str, str]) -> int | None:
        """Post JSON once and return the answer's status, or None where there was none."""
        url = URL(text, encoded=text.isascii())
        headers = {**headers, "Content-Type": "application/json"}
        try:
            async with self._session(url).post(
                url, data=body, headers=headers, timeout=DELIVERY, allow_redirects=False
            ) as answer:
                return answer.status
        except (TimeoutError, aiohttp.ClientError, ConnectionError, ValueError):
            return None

    def _session(self, url: URL) -> aiohttp.ClientSession:
        session = self._direct if is_loopback(url.host or "") else self._proxied
        assert session is not None, "open comes first"
        return session


def is_loopback(host: str) -> bool:
    """Whether a host of a URL is this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
