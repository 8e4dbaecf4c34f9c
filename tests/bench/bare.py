"""
Bare: the least that can be done for each picture, one after the other, with the daemon's own libraries.

No ledger, no retries, no second look, no sidecar: hash, decode, upload, create, get, download, decode, write, sync.
What the daemon does beyond that is what its promises cost. `bare.py BASE_URL OUTBOX SCALE PICTURE...` prints the CPU
seconds of its loop, and how many pictures it did.
"""

import asyncio
import hashlib
import json
import os
import sys
import time
from pathlib import Path

import aiohttp
import pyvips

BLOCK_BYTES = 256 * 1024


def decoded(image: pyvips.Image) -> tuple[int, int]:
    """Its size, once every pixel was pulled through."""
    image.avg()
    return image.width, image.height


def hashed(path: Path) -> tuple[bytes, str]:
    content = path.read_bytes()
    return content, hashlib.sha256(content).hexdigest()


async def asked(session: aiohttp.ClientSession, method: str, url: str, body: object = None) -> dict[str, object]:
    async with session.request(method, url, json=body) as response:
        response.raise_for_status()
        return await response.json()


def published(source: Path, final: Path) -> None:
    """Copy a file into the outbox, synced before it has its name."""
    temporary = final.with_name(f".{final.name}.part")
    with source.open("rb") as file, temporary.open("wb") as target:
        while block := file.read(1 << 20):
            target.write(block)
        target.flush()
        os.fsync(target.fileno())
    temporary.rename(final)
    folder = os.open(final.parent, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(folder)
    os.close(folder)


async def carry(session: aiohttp.ClientSession, base_url: str, path: Path, outbox: Path, scale: float) -> None:
    content, _ = hashed(path)
    with path.open("rb") as file:
        source = pyvips.Source.new_from_descriptor(file.fileno())
        size = decoded(pyvips.Image.new_from_source(source, "", access="sequential", fail_on="warning"))
    ask = {"content_type": "image/jpeg", "file_type": "image", "expires_in_seconds": 86_400}
    given = await asked(session, "POST", f"{base_url}/upload/presign", ask)
    headers = {"Content-Type": "image/jpeg", **given["required_headers"]}
    async with session.put(given["presigned_url"], data=content, headers=headers) as response:
        response.raise_for_status()
    wish = {"image": given["public_url"], "scale": scale, "face_enhance": False}
    made = await asked(session, "POST", f"{base_url}/prediction/", {"model": "real-esrgan", "input": wish})
    end = await asked(session, "GET", f"{base_url}/prediction/{made['predictionID']}")
    staged = outbox.with_name("bare.part")
    async with session.get(end["output"]) as response:
        with staged.open("wb") as file:
            async for block in response.content.iter_chunked(BLOCK_BYTES):
                file.write(block)
    result = decoded(pyvips.Image.new_from_file(str(staged), access="sequential", fail_on="warning"))
    assert result == (size[0] * scale, size[1] * scale), (size, result)
    published(staged, outbox / f"{path.stem}_x{scale}.png")
    staged.unlink()


async def main(base_url: str, outbox: Path, scale: int, pictures: list[Path]) -> None:
    pyvips.cache_set_max(0)
    pyvips.concurrency_set(1)
    async with aiohttp.ClientSession() as session:
        before = time.process_time()
        for path in pictures:
            await carry(session, base_url, path, outbox, scale)
        print(json.dumps({"cpu_seconds": time.process_time() - before, "pictures": len(pictures)}))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), [Path(each) for each in sys.argv[4:]]))
