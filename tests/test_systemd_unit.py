"""The service manager: the unit fits the program, and messages reach the socket."""

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.adapters.systemd import Notifier
from daemon.exits import Exit

SYSTEMD = Path(__file__).parent.parent / "systemd"
UNIT = (SYSTEMD / "esrgand.service").read_text()

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed; .ci/run installs it"
)


def values(key: str) -> list[str]:
    return re.findall(rf"^{key}=(.*)$", UNIT, re.MULTILINE)


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit and its drop-in where systemd looks for them, with a command that exists on this machine."""
    path = tmp_path / "esrgand.service"
    path.write_text(UNIT.replace("/opt/esrgand/bin/esrgand", sys.executable))
    (tmp_path / "esrgand.service.d").mkdir()
    shutil.copy(SYSTEMD / "esrgand.service.d-folders.conf.example", tmp_path / "esrgand.service.d" / "folders.conf")
    return path


def analyze(unit: Path, *arguments: str) -> str:
    """What systemd-analyze complains of, a status other than 0 included."""
    environ = os.environ | {"SYSTEMD_UNIT_PATH": f"{unit.parent}:/usr/lib/systemd/system:/lib/systemd/system"}
    command = ["systemd-analyze", *arguments, str(unit)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    return done.stderr + (done.stdout if done.returncode else "")


@needs_systemd
def test_systemd_finds_nothing_wrong(unit: Path) -> None:
    assert analyze(unit, "verify", "--man=no", "--recursive-errors=no") == ""


@needs_systemd
def test_systemd_would_find_what_is_wrong(unit: Path) -> None:
    with (unit.parent / "esrgand.service.d" / "folders.conf").open("a") as file:
        file.write("\nReadWritePath=/srv\n")
    assert "ReadWritePath" in analyze(unit, "verify", "--man=no", "--recursive-errors=no")


@needs_systemd
def test_the_sandbox_is_closed_enough() -> None:
    """Exposure of 2.0 at most; systemd counts it in tenths."""
    options = ("security", "--offline=true", "--threshold=20", "--no-pager")
    assert analyze(SYSTEMD / "esrgand.service", *options) == ""


def test_the_unit_repeats_the_exit_statuses() -> None:
    repeated = re.findall(r"^#   (\d+) +([A-Z]+) ", UNIT, re.MULTILINE)
    assert {name: int(number) for number, name in repeated} == {each.name: each.value for each in Exit}
    assert values("RestartPreventExitStatus") == [f"{Exit.USAGE} {Exit.CONFIG}"]
    assert values("SuccessExitStatus") == [str(Exit.PICTURES.value)]
    assert values("Restart") == ["on-failure"]


def test_the_daemon_alone_is_told_to_stop() -> None:
    """The engine's process would die of it first, and its picture would have failed."""
    assert values("KillMode") == ["mixed"]


def test_the_unit_and_the_program_agree_on_names() -> None:
    assert values("Type") == ["notify"]
    assert values("LoadCredential") == ["api-key:/etc/esrgand/api-key"]
    assert values("SetCredential") == [r"api-key:\n"]
    assert values("StateDirectory") == ["esrgand"]
    assert values("User") == ["esrgand"]
    assert re.search(r"^u esrgand ", (SYSTEMD / "esrgand.sysusers.conf").read_text(), re.MULTILINE)


def test_the_commands_that_install_it_work_on_a_bare_machine(tmp_path: Path) -> None:
    """All that copy files, with another root directory, in which only systemd's own folder is there."""
    (tmp_path / "etc/systemd/system").mkdir(parents=True)
    header = UNIT.partition("\n[Unit]")[0].replace("\\\n#", "")
    copies = re.findall(r"^#   ((?:cp|install -\w*m).*?)(?: +\(.*|; .*| &&.*)?$", header, re.MULTILINE)
    for copy in copies:
        command = copy.replace(" /etc/", f" {tmp_path}/etc/")
        subprocess.run(command, shell=True, check=True, cwd=SYSTEMD.parent, stdin=subprocess.DEVNULL)
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()} == {
        "etc/systemd/system/esrgand.service",
        "etc/systemd/system/esrgand.service.d/folders.conf",
        "etc/sysusers.d/esrgand.conf",
        "etc/esrgand/config.toml",
        "etc/esrgand/api-key",
    }


def test_no_mount_keeps_the_service_from_starting() -> None:
    """A mount that is required and away ends the job that starts the service, and nobody would start it again."""
    drop_in = (SYSTEMD / "esrgand.service.d-folders.conf.example").read_text()
    assert not re.search(r"^(RequiresMountsFor|Requires|BindsTo|Requisite)=", UNIT + drop_in, re.MULTILINE)


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """A service manager's end of the line, and its name in NOTIFY_SOCKET."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@esrgand-test-{os.getpid()}-{tmp_path.name}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        line.bind(name.replace("@", "\0", 1))
        line.settimeout(5)
        yield line, name


def test_every_message_reaches_the_socket(manager: tuple[socket.socket, str]) -> None:
    line, name = manager
    notifier = Notifier({"NOTIFY_SOCKET": name}, monotonic=lambda: 12.5)
    notifier.ready("watching 2 folders")
    notifier.status("3 waiting\nREADY=0 é \udce9")
    notifier.watchdog()
    notifier.reloading()
    notifier.stopping()
    assert [line.recv(4096).decode() for _ in range(5)] == [
        "READY=1\nSTATUS=watching 2 folders",
        "STATUS=3 waiting READY=0 é \\udce9",
        "WATCHDOG=1",
        "RELOADING=1\nMONOTONIC_USEC=12500000",
        "STOPPING=1",
    ]


@pytest.mark.parametrize("name", ["", "/nowhere/notify", "vsock:2:1", "@esrgand-test-nobody-listens", "/" + "x" * 200])
def test_without_a_manager_nothing_happens(name: str) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": name} if name else {})
    notifier.ready()
    notifier.watchdog()


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "180000000"}, 180),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": str(os.getpid())}, 0.5),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
    ],
)
def test_the_watchdog_is_ours_or_none(environ: dict[str, str], seconds: float | None) -> None:
    assert Notifier(environ).watchdog_seconds == seconds
