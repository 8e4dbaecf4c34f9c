"""The configuration: what is right is taken as written, and all that is wrong is said at once."""

import os
import subprocess
import sys
import threading
import time
import tomllib
from pathlib import Path

import pytest

from daemon.config import (
    ConfigError,
    Secret,
    exposed_file,
    exposed_folder,
    load,
    parse,
    read_key,
    read_secret,
    read_state_dir,
)
from daemon.config_clashes import clashes
from daemon.config_model import SECTIONS, Config
from daemon.rules.admission import Enough
from daemon.rules.recipe import Recipe

EXAMPLE = Path(__file__).parent.parent / "config.example.toml"
BASE = Path("/etc/esrgand")
FOLDER = '[[folder]]\ninbox = "/srv/pictures/in"\noutbox = "/srv/pictures/out"\n'
VENDOR = '[storage]\nkind = "vendor"\n'
SMALLEST = FOLDER + VENDOR


def complaints(text: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        parse(text, BASE)
    return caught.value.complaints


def folder(line: str) -> str:
    return FOLDER + line + "\n" + VENDOR


def keys_of_code() -> set[str]:
    return {"state_dir"} | {f"{section}.{key}" for section, model in SECTIONS.items() for key in model.model_fields}


def test_the_example_has_every_key_with_its_default() -> None:
    text = EXAMPLE.read_text()
    data = tomllib.loads(text)
    tables = {name: value[0] if name == "folder" else value for name, value in data.items() if name != "state_dir"}
    keys = {"state_dir"} | {f"{section}.{key}" for section, table in tables.items() for key in table}
    assert keys == keys_of_code()
    assert parse(text, BASE) == parse(FOLDER + '[storage]\nbucket = "your-bucket"\n', BASE)


def test_every_section_is_known_to_the_suggestions() -> None:
    assert {field.alias or name for name, field in Config.model_fields.items()} == {"state_dir", *SECTIONS}


def test_values_arrive_as_the_program_uses_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    text = '[[folder]]\ninbox = "in"\noutbox = "~/out"\nscale = 2.5\nquiet_seconds = 0.5\n[http]\nlisten = "[::1]:0"\n'
    config = parse(text + VENDOR, BASE)
    only = config.folders[0]
    assert (only.inbox, only.outbox, only.archive) == (BASE / "in", Path("/home/ada/out"), None)
    assert only.recipe == Recipe(scale=2.5)
    assert only.quiet(on_network=True) == 0.5
    assert config.http.address == ("::1", 0)
    plain = parse(SMALLEST, BASE).folders[0]
    assert (plain.quiet(on_network=False), plain.quiet(on_network=True)) == (2, 10)
    with pytest.raises(ValueError, match="frozen"):
        config.state_dir = Path("/tmp")  # type: ignore[misc]


def test_everything_wrong_is_said_at_once_with_key_value_and_remedy() -> None:
    said = complaints(
        'level = "info"\n[[folder]]\ninbox = "/a"\noutbox = "/a/out"\n'
        '[[folder]]\ninbox = 5\nscale = 12\nincude = ["*"]\nafter = "archive"\n'
        "[api]\nin_flight_max = 0\nsubmits_max = true\npoll_seconds_min = nan\n"
    )
    assert set(said) == {
        "level: unknown key; it belongs in [log].",
        'folder[1].outbox = "/a/out": it must lie outside the inbox /a, and not around it.',
        "folder[2].inbox = 5: it must be a path in quotes, not empty.",
        "folder[2].outbox: missing; it must be given.",
        "folder[2].scale = 12: it must be a number above 0 and at most 10.",
        "folder[2].incude: unknown key; did you mean include?",
        'folder[2].archive: it must name a folder, because after = "archive" sends pictures there.',
        "api.in_flight_max = 0: it must be a number from 1 to 500.",
        "api.submits_max = true: it must be a whole number.",
        "api.poll_seconds_min = NaN: it must be a finite number.",
        'storage.bucket: it must name a bucket, because storage.kind is "gcs" ("vendor" needs none).',
    }


@pytest.mark.parametrize(
    ("text", "enough"),
    [
        ("", None),
        ("4000 x 3000", Enough(4000, 3000)),
        ("3000X4000", Enough(4000, 3000)),
        ("12 megapixels", Enough(pixels=12_000_000)),
        ("0.5 MP", Enough(pixels=500_000)),
        ("1 megapixel", Enough(pixels=1_000_000)),
    ],
)
def test_how_large_is_large_enough(text: str, enough: Enough | None) -> None:
    assert parse(folder(f'skip_above = "{text}"'), BASE).folders[0].skip_above == enough


@pytest.mark.parametrize(
    ("text", "key", "must"),
    [
        (VENDOR, "folder", "[[folder]]"),
        ('[folder]\ninbox = "/a"\n' + VENDOR, "folder", "in two brackets"),
        ("folder = [1]\n" + VENDOR, "folder[1] = 1", "[section]"),
        ("api = 3\n" + SMALLEST, "api = 3", "[section]"),
        ("[apy]\n" + SMALLEST, "apy", "did you mean api?"),
        (folder('scale = "4"'), 'folder[1].scale = "4"', "a number"),
        (folder("scale = 0"), "folder[1].scale = 0", "above 0"),
        (folder("include = []"), "folder[1].include = []", "not be empty"),
        (folder('include = ["*.jpg", 3]'), "folder[1].include[2] = 3", "text in quotes"),
        (folder('exclude = [""]'), "folder[1].exclude", "none of them empty"),
        (folder('watch = "fast"'), "folder[1].watch", '"auto", "native" or "polling"'),
        (folder('quiet_seconds = "soon"'), "folder[1].quiet_seconds", '"auto"'),
        *(
            (folder(f"skip_above = {value}"), f"folder[1].skip_above = {value}", '"4000 x 3000"')
            for value in ('"12"', '"0 x 4000"', '"0 MP"', '"4000 x"', '"big"', "12")
        ),
        (folder('name = "x"'), "folder[1].name", "{stem}"),
        (folder('name = "{stem}/{scale}"'), "folder[1].name", "without /"),
        (folder('name = "{stem}{size}"'), "folder[1].name", "no other fields"),
        (folder('name = "{stem.x}"'), "folder[1].name", "no other fields"),
        (folder('name = "{stem"'), "folder[1].name", "pairs"),
        (folder('name = ".{stem}"'), "folder[1].name", "dot"),
        (folder('after = "archive"'), "folder[1].archive", "name a folder"),
        (folder('after = "archive"\narchive = "/srv/pictures/in/old"'), "folder[1].archive", "outside the inbox"),
        (folder('after_failure = "move"'), "folder[1].failed", "name a folder"),
        (folder('archive = "~nobody-has-this-name/x"'), "folder[1].archive", "user of this machine"),
        (folder('archive = "a\\u0000b"'), "folder[1].archive", "path"),
        ('state_dir = "/srv/pictures/in/x"\n' + SMALLEST, "state_dir", "outside the inbox /srv/pictures/in"),
        ('state_dir = "/srv/pictures/out/x"\n' + SMALLEST, "state_dir", "outside the outbox"),
        ('[api]\nbase_url = "http://api.example.org"\n' + SMALLEST, "api.base_url", "https://"),
        (
            '[api]\nbase_url = "embedded"\n[server]\nengine = "real-esrgan"\n' + folder("face_enhance = true"),
            "folder[1].face_enhance",
            'face_enhance = "ignore"',
        ),
        ('[http]\nlisten = "0.0.0.0:80"\n' + SMALLEST, "http.token_file", "http.listen 0.0.0.0:80"),
        ('[http]\nlisten = ":80"\n' + SMALLEST, "http.listen", "host:port"),
        ('[http]\nlisten = "::1:80"\n' + SMALLEST, "http.listen", "brackets"),
        ('[http]\nlisten = "[nas]:80"\n' + SMALLEST, "http.listen", "brackets"),
        ('[http]\nlisten = "a..b:80"\n' + SMALLEST, "http.listen", "host:port"),
        ('[http]\nlisten = "a b:80"\n' + SMALLEST, "http.listen", "host:port"),
        ("[api]\nin_flight_max = 0x1" + "0" * 16 + "\n" + SMALLEST, "api:", "64 bits"),
        ("[api]\nin_flight_max = 0x" + "f" * 5000 + "\n" + SMALLEST, "api:", "64 bits"),
        ("stray = -" + "9" * 5000 + "\n" + SMALLEST, "The configuration is not TOML", "digits"),
        ("stray." + ".".join("a" * 3000) + " = 1\n" + SMALLEST, "stray:", "nested"),
        ('"a.b\\nc" = 1\n' + SMALLEST, r'"a.b\nc": unknown key', "known here"),
        ('[log]\nlevel = "\\u001b[2J\u202e"\n' + SMALLEST, r'log.level = "\u001b[2J\u202e"', '"debug"'),
        ('[http]\nlisten = "localhost:65536"\n' + SMALLEST, "http.listen", "host:port"),
        (FOLDER + '[storage]\nbucket = "gs://mine"\n', "storage.bucket", "without gs://"),
        (FOLDER + '[storage]\nkind = "vendor"\nprefix = "/x"\n', "storage.prefix", "no / at the start"),
        (FOLDER + '[storage]\nkind = "vendor"\nurl_seconds = 604801\n', "storage.url_seconds", "604_800"),
        ("[api]\ncreate_seconds_max = 601\n" + SMALLEST, "api.create_seconds_max", "from 1 to 600"),
        ('[server]\nengine = "esrgan"\n' + SMALLEST, "server.engine", '"real-esrgan"'),
        ('[server]\nmodel = "../secret"\n' + SMALLEST, "server.model", "a name such as"),
        ("[server]\nmemory_max_mb = 64\n" + SMALLEST, "server.memory_max_mb", "from 128"),
        ('[server]\nvulkan = ""\n' + SMALLEST, "server.vulkan", '"auto"'),
        ("[log]\nlevel = 1979-05-27\n" + SMALLEST, 'log.level = "1979-05-27"', '"debug"'),
    ],
)
def test_one_wrong_thing_is_one_complaint(text: str, key: str, must: str) -> None:
    (said,) = complaints(text)
    assert said.startswith(key), said
    assert must in said, said


@pytest.mark.parametrize(
    ("first", "second", "recursive", "right"),
    [
        ("/a", "/a", False, False),
        ("/a", "/a/b", True, False),
        ("/a/b", "/a", True, False),
        ("/a", "/a/b", False, True),
        ("/a", "/ab", True, True),
    ],
)
def test_no_picture_is_in_two_inboxes(first: str, second: str, recursive: bool, right: bool) -> None:
    each = '[[folder]]\ninbox = "{}"\noutbox = "/out"\nrecursive = {}\n'
    text = "".join(each.format(inbox, str(recursive).lower()) for inbox in (first, second)) + VENDOR
    if right:
        assert len(parse(text, BASE).folders) == 2
    else:
        (said,) = complaints(text)
        assert "taken twice" in said


def test_links_hide_no_outbox_in_an_inbox(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "elsewhere").symlink_to(tmp_path / "in")
    text = f'[[folder]]\ninbox = "{tmp_path}/in"\noutbox = "{tmp_path}/elsewhere/out"\n{VENDOR}'
    assert "lie outside the inbox" in complaints(text)[0]


def test_places_that_hang_are_compared_by_their_names(tmp_path: Path) -> None:
    """All of them together are waited for once, and what answers is compared as ever."""
    (tmp_path / "in").mkdir()
    (tmp_path / "elsewhere").symlink_to(tmp_path / "in")
    places = [("/nas/a", "/nas/../nas/a/out"), (f"{tmp_path}/in", f"{tmp_path}/elsewhere/out"), ("/nas/b", "/nas/c")]
    text = "".join(f'[[folder]]\ninbox = "{inbox}"\noutbox = "{outbox}"\n' for inbox, outbox in places)
    config = Config.model_validate(tomllib.loads(text + VENDOR), context={"base": BASE})
    gate = threading.Event()

    def resolve(path: Path) -> Path:
        if path.is_relative_to("/nas"):
            gate.wait(60)
        return path.resolve()

    before = time.monotonic()
    found = list(clashes(config, resolve, seconds=0.5))
    assert time.monotonic() - before < 20
    gate.set()
    assert [clash.keys[0] for clash in found] == [("folder", 0, "outbox"), ("folder", 1, "outbox")]


def test_the_webhook_needs_a_secret_and_a_listener() -> None:
    text = '[webhook]\npublic_url = "https://nas.example.org/hook"\n[http]\nlisten = ""\n' + SMALLEST
    assert [each.split(":")[0] for each in complaints(text)] == ["webhook.secret_file", 'http.listen = ""']


HOOK = '[webhook]\nsecret_file = "secret"\npublic_url = "{}"\n' + SMALLEST


@pytest.mark.parametrize(
    "url",
    [
        "https://nas.example.org/hook",
        "https://nas.example.org:8443/a/b/",
        "http://127.0.0.1:8484/hook",
        "http://[::1]:8484/hook",
        "http://localhost/hook",
    ],
)
def test_the_webhook_is_called_by_https_or_on_this_machine(url: str) -> None:
    webhook = parse(HOOK.format(url), BASE).webhook
    assert (webhook.public_url, webhook.secret_file) == (url.rstrip("/"), BASE / "secret")


@pytest.mark.parametrize(
    "url",
    [
        "http://nas.example.org/hook",
        "http://192.168.1.2/hook",
        "http://localhost.example.org/hook",
        "ftp://127.0.0.1/hook",
        "nas.example.org/hook",
        "https:///hook",
        "https://nas.example.org/hook?token=1",
        "https://nas.example.org/hook#1",
        "https://me:hunter2@nas.example.org/hook",
    ],
)
def test_the_webhook_is_called_in_no_other_way(url: str) -> None:
    (said,) = complaints(HOOK.format(url))
    assert said.startswith("webhook.public_url = ")
    assert "it must be a URL" in said
    assert "hunter2" not in said


def test_a_url_with_a_password_is_not_repeated() -> None:
    (said,) = complaints('[api]\nbase_url = "https://me:hunter2@api.example.org/v1"\n' + SMALLEST)
    assert said == "api.base_url = ***: it must be a URL without a user or a password in it."


@pytest.mark.parametrize(
    "text",
    [
        '[api]\nauth = "hunter2"\n',
        '[api]\nkey_file = ["hunter2"]\n',
        'api = "hunter2"\n',
        '[api]\nkey = "hunter2"\n',
        '[api]\nbase_url = "https:/me:hunter2@api.example.org/v1"\n',
        '[api]\nbase_url = "me:hunter2@api.example.org"\n',
        '[storage]\npublic_base_url = "https://h/?key=hunter2"\n',
        '"https://me:hunter2@h" = 1\n',
    ],
)
def test_what_could_be_a_secret_is_not_repeated(text: str) -> None:
    for said in complaints(text + FOLDER + ("" if "[storage]" in text else VENDOR)):
        assert "hunter2" not in said


def test_complaints_are_short() -> None:
    (said,) = complaints(f'[[folder]]\ninbox = "/{"a" * 9000}"\noutbox = "/{"a" * 9000}/out"\n{VENDOR}')
    assert len(said) < 1100


@pytest.mark.parametrize("listen", ["localhost:0", "nas_1.example.org.:80", "[fe80::1%eth0]:80", "0.0.0.0:65535", ""])
def test_where_to_listen(listen: str) -> None:
    text = f'[http]\nlisten = "{listen}"\ntoken_file = "token"\n'
    assert parse(text + SMALLEST, BASE).http.listen == listen


@pytest.mark.parametrize("url", ["embedded", "http://127.0.0.1:8080/v1", "http://[::1]/v1", "http://localhost:1/v1"])
def test_an_api_on_this_machine_may_do_without_https(url: str) -> None:
    assert parse(f'[api]\nbase_url = "{url}"\n' + SMALLEST, BASE).api.base_url == url


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"a = \n", "line 1"),
        (b'a = "\xff"', "not UTF-8"),
        (None, "No such file"),
        (b"a = " + b"[" * 100_000, "not TOML"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_sentence(tmp_path: Path, content: bytes | None, part: str) -> None:
    path = tmp_path / "config.toml"
    if content is not None:
        path.write_bytes(content)
    for read in (load, read_state_dir):
        with pytest.raises(ConfigError) as caught:
            read(path)
        (said,) = caught.value.complaints
        assert part in said


@pytest.mark.parametrize("line", ["", 'state_dir = "state"\n', 'state_dir = "~/s"\n', 'state_dir = "/var/x"\n'])
def test_the_quick_way_to_the_state_directory_agrees_with_the_long_one(tmp_path: Path, line: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text("\ufeff" + line + SMALLEST)
    assert read_state_dir(path) == load(path).state_dir


def test_the_quick_way_does_without_pydantic() -> None:
    probe = "import daemon.config, sys; sys.exit('pydantic' in sys.modules or 'asyncio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", probe], check=False).returncode == 0


def test_the_key_comes_from_the_file_then_the_credential_then_the_environment(tmp_path: Path) -> None:
    key_file = tmp_path / "key"
    key_file.write_text("from-file\n")
    key_file.chmod(0o600)
    (tmp_path / "api-key").write_text("from-credential")
    environ = {"ESRGAND_API_KEY": " from-environment "}
    with_file = parse(f'[api]\nkey_file = "{key_file}"\n' + SMALLEST, BASE)
    without = parse(SMALLEST, BASE)
    assert read_key(with_file, environ, tmp_path).reveal() == "from-file"
    assert read_key(without, environ, tmp_path).reveal() == "from-credential"
    assert read_key(without, environ, tmp_path / "none").reveal() == "from-environment"
    assert read_key(without, environ, None).reveal() == "from-environment"
    with pytest.raises(ConfigError, match="no API key"):
        read_key(without, {}, None)


@pytest.mark.parametrize(
    ("content", "part"),
    [(b" \n", "empty"), (b"sesame open", "one word"), (b"ses\x00ame", "one word"), (b"\xff", "one word")],
)
def test_a_file_without_a_usable_secret_is_refused_without_showing_it(
    tmp_path: Path, content: bytes, part: str
) -> None:
    path = tmp_path / "token"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=part) as caught:
        read_secret("http.token_file", path)
    assert "ses" not in str(caught.value).replace(str(path), "")
    assert str(path) in str(caught.value)


def test_a_secret_file_that_is_missing_or_a_directory_is_a_sentence(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(ConfigError, match=r"http\.token_file: .* cannot be read"):
            read_secret("http.token_file", path)


@pytest.mark.parametrize(("mode", "warns"), [(0o600, False), (0o640, False), (0o644, True)])
def test_a_key_that_everyone_may_read_is_warned_of(tmp_path: Path, mode: int, warns: bool) -> None:
    path = tmp_path / "key"
    path.write_text("sesame")
    os.chmod(path, mode)
    assert ("chmod 600" in read_secret("api.key_file", path).warning) is warns


def test_every_complaint_about_a_file_names_it(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text('state_dir = ""\nstray = 1\n' + SMALLEST)
    for read, count in ((load, 2), (read_state_dir, 1)):
        with pytest.raises(ConfigError) as caught:
            read(path)
        assert len(caught.value.complaints) == count
        assert all(said.startswith(f"{path}: s") for said in caught.value.complaints)


@pytest.mark.parametrize(
    ("mode", "said"),
    [(0o700, ""), (0o750, ""), (0o770, "change"), (0o755, "look into"), (0o701, "look into"), (0o1777, "change")],
)
def test_a_state_directory_that_is_open_to_others_is_warned_of(tmp_path: Path, mode: int, said: str) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state").chmod(mode)
    warning = exposed_folder(tmp_path / "state")
    assert (said in warning) if said else warning == ""
    assert exposed_folder(tmp_path / "none") == exposed_file("key", tmp_path / "none") == ""


def test_a_secret_does_not_print() -> None:
    secret = Secret("sesame")
    assert f"{secret} {secret!r} {[secret]}" == "*** *** [***]"
