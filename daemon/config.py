"""
Configuration: a TOML file becomes frozen, checked values; secrets become values that do not print.

Everything that is wrong is said at once, in a `ConfigError`: each complaint names the key as a person counts it
(`folder[2].scale` is in the second [[folder]]), the value given, and what would be right. What could be a secret is
never repeated. Whether folders exist is not looked at here; links are followed to see whether folders lie one in the
other, so `load` and `parse` belong in a thread while the daemon runs.

`read_state_dir` and the secrets do without pydantic, which is imported only once a whole configuration is asked for.
"""

import copy
import difflib
import json
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

    from daemon.config_clashes import Key
    from daemon.config_model import Config

STATE_DIR = "/var/lib/esrgand"
SECRET_BYTES_MAX = 65_536
SHOWN_MAX = 80
COMPLAINT_MAX = 1000
DEPTH_MAX = 8  # of tables and lists; what we take has half of that

# Where a person may have put a secret itself: what stands there is not repeated.
PRIVATE_SECTIONS = {("api",), ("webhook",), ("storage",), ("http",)}
SECRET_KEYS = {"auth", "key_file", "secret_file", "token_file", "credentials_file"}

# Pydantic speaks of Python; these are the same facts in the words of TOML.
MUST_BY_TYPE = {
    "bool_type": "be true or false",
    "finite_number": "be a finite number",
    "float_type": "be a number",
    "int_type": "be a whole number",
    "model_type": "be a [section]",
    "string_type": "be a text in quotes",
    "too_short": "not be empty",
    "tuple_type": "be a list in [ ]",
}


class ConfigError(Exception):
    """The configuration is wrong. complaints: whole sentences for a person, each on one line, without secrets."""

    def __init__(self, complaints: Iterable[str]) -> None:
        self.complaints = tuple(_short(_printable(complaint), COMPLAINT_MAX) for complaint in complaints)
        super().__init__("\n".join(self.complaints))


class Secret:
    """A key, a token: it prints as `***`. warning: what a person should mend about where it was found, or ""."""

    __slots__ = ("_value", "warning")

    def __init__(self, value: str, warning: str = "") -> None:
        self._value = value
        self.warning = warning

    def reveal(self) -> str:
        """The secret itself, for the one header that carries it."""
        return self._value

    def __repr__(self) -> str:
        return "***"


def load(path: Path) -> "Config":
    """Read and check a configuration file; relative paths in it start at its own folder. Complaints name the file."""
    text = _read_text(path)
    with _naming(path):
        return parse(text, path.absolute().parent)


def parse(text: str, base: Path) -> "Config":
    """Check a configuration given as text; relative paths in it start at `base`."""
    from daemon.config_clashes import clashes

    given = _toml(text)
    config, wrong = _validate(given, base)
    complaints = [_complaint(details, given) for details in wrong]
    doubted = {details["loc"] for details in wrong}
    for clash in clashes(config):
        if not any(_one_holds_other(key, doubt) for key in clash.keys for doubt in doubted):
            complaints.append(f"{_assignment(clash.keys[0], given)}: it must {clash.must}.")
    if complaints:
        raise ConfigError(complaints)
    return config


def read_state_dir(path: Path) -> Path:
    """The one value that `status` needs, without checking the others."""
    text = _read_text(path)
    with _naming(path):
        value = _toml(text).get("state_dir", STATE_DIR)
        if not isinstance(value, str) or not value.strip() or "\0" in value:
            raise ConfigError(["state_dir: it must be a path in quotes, not empty."])
        try:
            return path.absolute().parent / Path(value).expanduser()
        except RuntimeError:
            raise ConfigError(["state_dir: it must be a path whose ~ names a user of this machine."]) from None


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Complaints inside are about this file."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{path}: {complaint}" for complaint in error.complaints) from None


def read_key(config: "Config", environ: Mapping[str, str], credentials_dir: Path | None) -> Secret:
    """The API key: from api.key_file, else the service manager's credential `api-key`, else ESRGAND_API_KEY."""
    if config.api.key_file:
        return read_secret("api.key_file", config.api.key_file)
    if credentials_dir and os.path.lexists(credential := credentials_dir / "api-key"):
        return read_secret("The credential api-key", credential)
    if "ESRGAND_API_KEY" in environ:
        return Secret(_checked("ESRGAND_API_KEY", environ["ESRGAND_API_KEY"]))
    complaint = (
        "There is no API key: name a file with it in api.key_file, or hand it over as the service manager's credential "
        "api-key, or set ESRGAND_API_KEY."
    )
    raise ConfigError([complaint])


def read_secret(key: str, path: Path) -> Secret:
    """The secret in a file that a configuration key names, without the white space around it."""
    try:
        with path.open("rb") as file:
            text = file.read(SECRET_BYTES_MAX).decode(errors="replace")
            mode = os.fstat(file.fileno()).st_mode
    except OSError as error:
        complaint = f"{key}: {_shown(str(path))} cannot be read ({error.strerror}); it must hold the secret alone."
        raise ConfigError([complaint]) from None
    return Secret(_checked(f"{key}: {_shown(str(path))}", text), _exposed(key, path, mode))


def exposed_file(key: str, path: Path) -> str:
    """What a person should mend about a file with a secret that others read for themselves, or ""."""
    try:
        return _exposed(key, path, path.stat().st_mode)
    except OSError:
        return ""  # Whoever needs it says so.


def exposed_folder(state_dir: Path) -> str:
    """What a person should mend about a state directory, or ""."""
    try:
        mode = state_dir.stat().st_mode & 0o7777
    except OSError:
        return ""
    # Its own group may look: somebody has meant that.
    if not mode & 0o027:
        return ""
    what = "change what is in" if mode & 0o022 else "look into"
    return f"state_dir: other users of this machine may {what} {state_dir} (mode {mode:03o}); chmod 700 mends it."


def _exposed(key: str, path: Path, mode: int) -> str:
    return f"{key}: everyone on this machine may read {path}; chmod 600 mends it." if mode & 0o004 else ""


def _checked(where: str, text: str) -> str:
    secret = text.strip()
    if not secret:
        raise ConfigError([f"{where} is empty; it must hold the secret alone."])
    if not (secret.isascii() and secret.isprintable() and " " not in secret):
        complaint = f"{where} holds more than a secret; it must be one word of plain letters, digits and signs."
        raise ConfigError([complaint])
    return secret


def _read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ConfigError([f"{path} cannot be read: {error.strerror}."]) from None
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path} is not UTF-8 text (byte {error.start + 1}); save it as UTF-8."]) from None


def _toml(text: str) -> dict[str, Any]:
    try:
        given = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([f"The configuration is not TOML: {error}."]) from None
    except RecursionError:
        raise ConfigError(["The configuration is not TOML: something in it is nested too deep."]) from None
    except ValueError:  # Python's own limit.
        raise ConfigError(["The configuration is not TOML: a number in it has thousands of digits."]) from None
    if complaints := [complaint for key, value in given.items() for complaint in _monstrous(key, value)]:
        raise ConfigError(complaints)
    return given


def _monstrous(key: str, value: Any) -> Iterator[str]:
    """What none of our values can be, and what other code would stumble over."""
    layer = [value]
    for _ in range(DEPTH_MAX):
        if any(isinstance(each, int) and not -(2**63) <= each < 2**63 for each in layer):
            yield f"{_key((key,))}: it must hold no whole number of more than 64 bits."
        lists = [each.values() if isinstance(each, dict) else each for each in layer if isinstance(each, dict | list)]
        layer = [inner for each in lists for inner in each]
    if layer:
        yield f"{_key((key,))}: it must not be nested so deep."


def _validate(given: dict[str, Any], base: Path) -> tuple["Config", list["ErrorDetails"]]:
    """What is wrong value by value, and the configuration as it would be without that.

    Leaving a wrong value out and looking again lets what does not go together be found in the same run.
    """
    from pydantic import ValidationError

    from daemon.config_model import Config

    rest = copy.deepcopy(given)
    wrong: dict[Key, ErrorDetails] = {}
    while True:
        try:
            return Config.model_validate(rest, context={"base": base}), list(wrong.values())
        except ValidationError as error:
            for details in error.errors(include_url=False):
                wrong.setdefault(details["loc"], details)
                _leave_out(rest, details["loc"], missing=details["type"] == "missing")


def _one_holds_other(one: "Key", other: "Key") -> bool:
    return all(a == b for a, b in zip(one, other, strict=False))


def _leave_out(rest: Any, key: "Key", missing: bool) -> None:
    while isinstance(key[-1], int):  # One wrong item spoils its list: the others must keep their numbers.
        key = key[:-1]
    for step in key[:-1]:
        if isinstance(rest, dict) and step not in rest:  # An earlier complaint took it all out.
            return
        rest = rest[step]
    if missing:
        rest[key[-1]] = "left-out"  # No check reads it, because its key is in doubt.
    else:
        rest.pop(key[-1], None)


def _complaint(details: "ErrorDetails", given: dict[str, Any]) -> str:
    kind, key, context = details["type"], details["loc"], details.get("ctx", {})
    if kind == "extra_forbidden":
        return f"{_key(key)}: unknown key; {_suggestion(key)}"
    if kind == "missing":
        return f"{_key(key)}: missing; it must be given."
    if key == ("folder",):
        must = "be written [[folder]], in two brackets, once for each inbox"
    elif kind == "value_error":
        must = f"be {context['error']}"
    elif kind == "literal_error":
        must = "be " + str(context["expected"]).replace("'", '"')
    else:
        must = MUST_BY_TYPE.get(kind, details["msg"])
    return f"{_assignment(key, given)}: it must {must}."


def _suggestion(key: "Key") -> str:
    """What an unknown key may have been meant to be."""
    from daemon.config_model import SECTIONS

    name = str(key[-1])
    homes = {section: list(model.model_fields) for section, model in SECTIONS.items()}
    siblings = homes[str(key[0])] if len(key) > 1 else ["state_dir", *SECTIONS]
    close = difflib.get_close_matches(name, siblings, 1)
    home = next((f"[[{each}]]" if each == "folder" else f"[{each}]" for each in homes if name in homes[each]), None)
    if home and name not in siblings:
        return f"it belongs in {home}."
    return f"did you mean {close[0]}?" if close else f"known here are {', '.join(siblings)}."


def _key(key: "Key") -> str:
    return "".join(f"[{step + 1}]" if isinstance(step, int) else f".{_step(step)}" for step in key).removeprefix(".")


def _step(step: str) -> str:
    return _short(step, SHOWN_MAX) if re.fullmatch(r"[A-Za-z0-9_-]+", step) else _shown(step)


def _assignment(key: "Key", given: Any) -> str:
    """A key with the value that it was given, as a person would write it."""
    for step in key:
        try:
            given = given[step]
        except (KeyError, IndexError, TypeError):
            return _key(key)
    if isinstance(given, dict):
        return _key(key)
    # A section that is none may be one of its values: `api = "the key"`.
    is_private = (key[-1] in SECRET_KEYS or key in PRIVATE_SECTIONS) and not isinstance(given, int | float)
    return f"{_key(key)} = {'***' if is_private else _shown(given)}"


def _shown(value: Any) -> str:
    """A value as TOML has it, in one short line; a URL, or half of one, that could carry a secret is not shown."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    if any(sign in text for sign in ":/") and any(sign in text for sign in "@?#"):
        return "***"
    return _short(text, SHOWN_MAX)


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[:most] + "…"


def _printable(text: str) -> str:
    """On one line, with nothing that a terminal would obey."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)
