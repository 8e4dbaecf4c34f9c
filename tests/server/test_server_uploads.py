"""The presigned road, and the file host."""

import asyncio

import pytest
from server_kit import bench, image


async def presign(b, **body):
    return await b.call("POST", "/upload/presign", {"content_type": "image/png", "file_type": "image", **body})


async def put(b, place, data=b"bytes", **changed) -> int:
    headers = {"Content-Type": "image/png", **place["required_headers"], **changed}
    async with b.session.put(place["presigned_url"], data=data, headers=headers) as answer:
        await answer.read()
        return answer.status


async def test_a_picture_goes_up_and_comes_back(tmp_path):
    async with bench(tmp_path) as b:
        status, place = await presign(b, expires_in_seconds=3600)
        assert status == 200
        assert place["expires_at"].endswith("Z")
        assert any(name.startswith("x-") for name in place["required_headers"])
        assert (await b.read(place["public_url"]))[0] == 404, "nothing is there yet"
        content = image(200, 100)
        assert await put(b, place, content) == 200
        async with b.session.get(place["public_url"]) as answer:
            assert (answer.headers["Content-Type"], await answer.read()) == ("image/png", content)
        assert await put(b, place, content) == 409, "a URL is used once"
        async with b.session.delete(f"{b.base}/files/{place['id']}", headers={"X-API-Key": "wrong"}) as answer:
            assert answer.status == 401
        assert (await b.call("DELETE", f"/files/{place['id']}"))[0] == 204
        assert (await b.read(place["public_url"]))[0] == 404
        assert (await b.call("DELETE", f"/files/{place['id']}"))[0] == 404
        assert list((tmp_path / "files").iterdir()) == list((tmp_path / "uploads").iterdir()) == []


async def test_what_a_put_must_bring(tmp_path):
    async with bench(tmp_path, bytes_max=1000) as b:
        _, place = await presign(b)
        _, other = await presign(b)
        (header,) = place["required_headers"]
        assert await put(b, place, **{"Content-Type": "image/jpeg"}) == 403
        assert await put(b, place, **{header: other["required_headers"][header]}) == 403
        assert await put(b, {**place, "required_headers": {}}) == 403
        assert await put(b, {**place, "presigned_url": place["presigned_url"] + "0"}) == 403
        assert await put(b, {**place, "presigned_url": place["presigned_url"].split("?")[0]}) == 403
        assert await put(b, {**place, "presigned_url": f"{b.origin}/uploads/none?signature=x"}) == 403
        assert await put(b, place, b"") == 400
        assert await put(b, place, b"x" * 1001) == 413

        async def pieces():
            for _ in range(11):
                yield b"x" * 100

        assert await put(b, place, pieces()) == 413, "a length that was not told counts too"
        assert await put(b, place, b"x" * 1000) == 200
        assert list((tmp_path / "scratch").iterdir()) == []


async def test_a_body_that_is_cut_leaves_nothing_and_may_come_again(tmp_path):
    async with bench(tmp_path) as b:
        _, place = await presign(b)
        host, port = b.origin.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        path = place["presigned_url"].removeprefix(b.origin)
        lines = [f"PUT {path} HTTP/1.1", f"Host: {host}", "Content-Type: image/png", "Content-Length: 1000"]
        lines += [f"{name}: {value}" for name, value in place["required_headers"].items()]
        writer.write("\r\n".join([*lines, "", "only this"]).encode())
        await writer.drain()
        async with asyncio.timeout(10):
            while not list((tmp_path / "scratch").iterdir()):
                await b.read(place["public_url"])
            writer.transport.abort()
            while list((tmp_path / "scratch").iterdir()):
                assert (await b.read(place["public_url"]))[0] == 404
        assert await put(b, place, b"all of it") == 200
        assert await b.read(place["public_url"]) == (200, b"all of it")


async def test_two_bodies_at_once_leave_one(tmp_path):
    async with bench(tmp_path) as b:
        _, place = await presign(b)
        both = asyncio.Barrier(2)

        async def slowly(letter: bytes):
            yield letter
            await both.wait()
            yield letter

        statuses = await asyncio.gather(put(b, place, slowly(b"a")), put(b, place, slowly(b"b")))
        assert sorted(statuses) == [200, 409]
        assert (await b.read(place["public_url"]))[1] == (b"aa" if statuses[0] == 200 else b"bb")


async def test_times_run_out(tmp_path):
    async with bench(tmp_path) as b:
        _, place = await presign(b, expires_in_seconds=3600)
        _, late = await presign(b)
        _, short = await presign(b, expires_in_seconds=60)
        await put(b, place)
        b.clock.advance(60)
        assert await put(b, short) == 403
        b.clock.advance(840)
        assert await put(b, late) == 403
        b.clock.advance(2699)
        assert (await b.read(place["public_url"]))[0] == 200
        b.clock.advance(1)
        assert (await b.read(place["public_url"]))[0] == 404
        await b.server.sweep()
        assert list((tmp_path / "files").iterdir()) == list((tmp_path / "uploads").iterdir()) == []


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"content_type": None}, 400),
        ({"content_type": "image/gif"}, 422),
        ({"file_type": "video"}, 422),
        ({"expires_in_seconds": 0}, 422),
        ({"expires_in_seconds": 604_801}, 422),
        ({"expires_in_seconds": True}, 422),
        ({"expires_in_seconds": "60"}, 422),
    ],
)
async def test_bad_presign_bodies(tmp_path, body, status):
    async with bench(tmp_path) as b:
        assert (await presign(b, **body))[0] == status
        assert list((tmp_path / "uploads").iterdir()) == []


async def test_own_files_are_read_from_the_disk_whatever_the_host(tmp_path):
    async with bench(tmp_path) as b:
        path = (await b.upload(image())).removeprefix(b.origin)
        for origin in ("https://old.example:9", "http://127.0.0.1:1"):
            assert (await b.over(await b.create(origin + path)))["status"] == "success"
        assert [call[0] for call in b.upscaler.calls] == [image(), image()]
