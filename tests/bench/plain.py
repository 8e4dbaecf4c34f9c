"""
What one would write in an evening, to have something to compare with: aiohttp and a semaphore around each picture's
whole journey. It remembers nothing, checks nothing, and asks after fixed pauses.

`python -m bench.plain BASE_URL INBOX OUTBOX POLL_SECONDS SCALE`, with tests/ to start from; its last line is how many
pictures it wrote.
"""

import asyncio
import sys
from pathlib import Path

import aiohttp
from bench.service import pause

SLOTS = 10
TYPES = {".jpg": "image/jpeg", ".png": "image/png", ".webp": "image/webp"}


async def journey(
    session: aiohttp.ClientSession,
    slots: asyncio.Semaphore,
    base_url: str,
    source: Path,
    target: Path,
    poll_seconds: float,
    scale: int,
) -> None:
    async with slots:
        type_ = TYPES[source.suffix]
        async with session.post(f"{base_url}/upload/presign", json={"content_type": type_}) as answer:
            upload = await answer.json()
        headers = {"Content-Type": type_}
        async with session.put(upload["presigned_url"], data=source.read_bytes(), headers=headers) as answer:
            answer.raise_for_status()
        order = {"model": "real-esrgan", "input": {"image": upload["public_url"], "scale": scale}}
        async with session.post(f"{base_url}/prediction/", json=order) as answer:
            answer.raise_for_status()
            prediction = (await answer.json())["predictionID"]
        while True:
            await pause(poll_seconds)
            async with session.get(f"{base_url}/prediction/{prediction}") as answer:
                found = await answer.json()
            if found["status"] == "success":
                break
        async with session.get(found["output"]) as answer:
            target.write_bytes(await answer.read())


async def main(base_url: str, inbox: str, outbox: str, poll_seconds: float, scale: int) -> int:
    slots = asyncio.Semaphore(SLOTS)
    sources = sorted(Path(inbox).iterdir())
    async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as group:
        for source in sources:
            target = Path(outbox) / f"{source.stem}_x{scale}.png"
            group.create_task(journey(session, slots, base_url, source, target, poll_seconds, scale))
    return len(sources)


if __name__ == "__main__":
    print(asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4]), int(sys.argv[5]))), flush=True)
