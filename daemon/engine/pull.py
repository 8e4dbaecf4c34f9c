"""
Pull: download an official network, resuming what was begun, and put it on the shelf once every byte is as it must be.

What is not whole lies under a hidden name that ends in `.part`: a cut, a full disk or Ctrl-C loses nothing and leaves
nothing that looks like a model. Size and sha256 come from the catalogue, never from the host. Proxies of the
environment are used. Everything that goes wrong is a `ModelError`; a connection that breaks is tried again first.
"""

import contextlib
import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path

import aiohttp

from daemon.engine.catalogue import RELEASES, Known
from daemon.engine.model import Model, ModelError
from daemon.engine.shelf import Shelf
from daemon.ports import Clock

CHUNK_BYTES = 256 * 1024
REDIRECTS_MAX = 5
TRIES_MAX = 4  # in a row that brought nothing
PAUSE_SECONDS = 1.0  # after the first of them, then twice as long each
READ_SECONDS_MAX = 60.0  # without a byte
PASSING = {408, 425, 429, 500, 502, 503, 504}

Report = Callable[[int, int | None], None]

_RANGE = re.compile(r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18}|\*)")


class _Cut(Exception):
    """It broke off, or its host is busy: the next try may go on where this one ended. Its text: why, no sentence."""


async def pull(
    known: Known,
    shelf: Shelf,
    clock: Clock,
    report: Report = lambda done, total: None,
    *,
    releases: str = RELEASES,
    read_seconds_max: float = READ_SECONDS_MAX,
) -> Model:
    """Download and install. report: gets the bytes that are here and, where that is known, how many there will be."""
    url = releases + known.path
    with shelf.locked():
        part = shelf.folder / f".{known.name}.pth.part"
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=20, sock_read=read_seconds_max)
        # Nothing may be unpacked on the way: the checksum is the stored file's.
        async with aiohttp.ClientSession(
            timeout=timeout,
            trust_env=True,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Accept-Encoding": "identity"},
        ) as session:
            try:
                await _Download(session, url, known, part, report).run(clock)
                model = shelf.install(known.name, part, url, known.licence)
                part.unlink(missing_ok=True)
            except OSError as error:
                kept = f" {_mebibytes(_size(part))} of it are kept; the next try goes on there." if _size(part) else ""
                raise ModelError(f"{part}: {error.strerror or error}.{kept}") from None
    return model


class _Download:
    """One file, until it is whole."""

    def __init__(self, session: aiohttp.ClientSession, url: str, known: Known, part: Path, report: Report) -> None:
        self._session = session
        self._url = url
        self._known = known
        self._part = part
        self._report = report

    async def run(self, clock: Clock) -> None:
        """Until the file is here and right."""
        resumed = _size(self._part) > 0
        while True:
            await self._persist(clock)
            wrong = self._wrong()
            if not wrong:
                return
            self._part.unlink()
            # What lay here from before may have been another file's beginning; what came in one piece was not.
            if not resumed:
                raise ModelError(
                    f"{self._url} is not the file that it should be: {wrong}. Nothing of it was kept. "
                    "Somebody may have changed it on the way; download it by other means and try esrgand models add."
                )
            resumed = False

    async def _persist(self, clock: Clock) -> None:
        """Try until the file has an end; go on as long as something comes."""
        failures, most = 0, _size(self._part)
        while True:
            try:
                return await self._once()
            except _Cut as cut:
                here = _size(self._part)
                failures, most = (0, here) if here > most else (failures + 1, most)
                if failures >= TRIES_MAX:
                    left = f" {_mebibytes(here)} are here; the next try goes on there." if here else ""
                    raise ModelError(f"{self._url} could not be downloaded: {cut}.{left}") from None
            if failures:
                await clock.sleep(PAUSE_SECONDS * 2 ** (failures - 1))

    async def _once(self) -> None:
        """Ask for what is missing and write it down, as far as it comes. Raises _Cut, ModelError, OSError."""
        begun = _size(self._part)
        if begun and begun >= self._known.bytes_max:
            if begun == self._known.size:
                return  # Whole already; only its installation was interrupted.
            self._part.unlink()
            begun = 0
        headers = {"Range": f"bytes={begun}-"} if begun else {}
        try:
            async with self._session.get(self._url, headers=headers, max_redirects=REDIRECTS_MAX) as answer:
                await self._take(answer, begun)
        except aiohttp.ClientConnectorCertificateError:
            raise ModelError(
                f"{self._url} could not be downloaded: the certificate of its host is not valid. Look at this "
                "machine's clock, and at HTTPS_PROXY."
            ) from None
        except aiohttp.TooManyRedirects:
            raise ModelError(f"{self._url} leads from one place to the next without an end.") from None
        except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError):
            raise ModelError(f"{self._url} leads to what is no address.") from None
        except aiohttp.ClientHttpProxyError as error:
            text = f"the proxy answered {error.status}"
            if error.status in PASSING:
                raise _Cut(text) from None
            raise ModelError(f"{self._url} could not be downloaded: {text}. Look at HTTPS_PROXY.") from None
        except TimeoutError:
            raise _Cut("its host does not answer, or sends nothing any more") from None
        except (aiohttp.ClientError, ConnectionError) as error:
            raise _Cut(_reason(error)) from None

    async def _take(self, answer: aiohttp.ClientResponse, begun: int) -> None:
        if answer.status == 416 and begun:
            # Its host has no more than we have: then what we have is not this file's beginning, or all of it.
            if not self._wrong():
                return
            self._part.unlink()
            raise _Cut("its host has less of it than is here")
        if answer.status in PASSING:
            raise _Cut(f"its host answered {answer.status}")
        if answer.status not in (200, 206):
            hint = "it is no longer there" if answer.status in (404, 410) else "its host does not give it away"
            raise ModelError(
                f"{self._url} could not be downloaded: {hint} (it answered {answer.status}). Download it by other "
                "means and try esrgand models add."
            )
        total = self._total(answer, begun)
        if answer.status == 200:
            begun = 0  # A host that does not care where we are begins at the beginning.
        if total is not None and (total > self._known.bytes_max or (self._known.size or total) != total):
            raise ModelError(
                f"{self._url} has {total} bytes, and {self._known.size or self._known.bytes_max} were expected; it is "
                "not the file that it should be."
            )
        await self._write(answer, begun, total if total is not None else self._known.size)

    def _total(self, answer: aiohttp.ClientResponse, begun: int) -> int | None:
        """Bytes of the whole file, as its host says, or None where it does not."""
        if answer.status == 200:
            return answer.content_length
        match = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        if match is None or int(match[1]) != begun:
            self._part.unlink(missing_ok=True)
            raise _Cut("its host sent another part than it was asked for")
        return None if match[2] == "*" else int(match[2])

    async def _write(self, answer: aiohttp.ClientResponse, begun: int, total: int | None) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        with os.fdopen(os.open(self._part, flags, 0o644), "wb") as file:
            file.truncate(begun)
            file.seek(begun)
            self._report(begun, total)
            async for chunk in answer.content.iter_chunked(CHUNK_BYTES):
                begun += len(chunk)
                if begun > self._known.bytes_max:
                    self._part.unlink(missing_ok=True)
                    raise ModelError(
                        f"{self._url} has more than the {self._known.bytes_max} bytes that were expected; it is not "
                        "the file that it should be."
                    )
                file.write(chunk)
                self._report(begun, total)
        if total is not None and begun < total:
            raise _Cut("the connection broke off")

    def _wrong(self) -> str:
        """What is wrong with the file as it is here, or ""."""
        size = _size(self._part)
        if self._known.size not in (None, size):
            return f"it has {size} bytes instead of {self._known.size}"
        with self._part.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        return "" if found == self._known.sha256 else f"its sha256 is {found} instead of {self._known.sha256}"


def _size(part: Path) -> int:
    """Bytes that are here."""
    with contextlib.suppress(FileNotFoundError):
        return part.stat(follow_symlinks=False).st_size
    return 0


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"


def _reason(error: Exception) -> str:
    """Without addresses, which may carry a signature."""
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "the name of its host is not known here; look at the network, and at HTTPS_PROXY"
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"its host cannot be reached ({error.strerror or 'no connection'})"
    return "the connection broke off"
