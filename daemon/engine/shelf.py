"""
Shelf: the folder of models: what is there, whether it is whole, and how another one comes in.

A model is NAME.param, NAME.bin and a note, NAME.json, that says where they are from and what their checksums are. The
.param is put in its place last and taken away first, so whoever looks finds a whole model or none, also after a crash.
Damaged files, and a system that refuses, are a `ModelError`; the folder need not exist before something is added.
"""

import contextlib
import fcntl
import hashlib
import io
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from daemon.engine import catalogue, checkpoint, form, layers, weights
from daemon.engine.convert import convert
from daemon.engine.model import Missing, Model, ModelError, is_name

PARAM, BIN, NOTE, PTH = ".param", ".bin", ".json", ".pth"
NOTE_BYTES_MAX = 1 << 16
LOCK = ".lock"


@dataclass(frozen=True, slots=True)
class Note:
    """What is known of where a model is from. source: a path or URL. sha256: of the source, as it came.

    licence: "" where it is not known. param, bin: sha256 of the two files.
    """

    name: str
    source: str
    sha256: str
    licence: str
    scale: int
    param: str
    bin: str


class Shelf:
    """The models in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def names(self) -> list[str]:
        """Of all that are there, whole or not, in order."""
        try:
            found = [path.name.removesuffix(PARAM) for path in self.folder.iterdir() if path.name.endswith(PARAM)]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise _refused(self.folder, error) from None
        return sorted(filter(is_name, found), key=lambda name: (name.lower(), name))

    def list(self) -> list[Model]:
        """Those that are whole. Raises Missing where nothing can be looked at for want of a package."""
        found = []
        for name in self.names():
            try:
                model = self.find(name)
            except Missing:
                raise
            except ModelError:
                continue
            found += [model] if model is not None else []
        return found

    def find(self, name: str) -> Model | None:
        """The model of this name, every byte looked at; None where there is none. Raises ModelError: it is damaged."""
        param = self._path(name, PARAM)
        try:
            param.lstat()
        except FileNotFoundError:
            return None
        except OSError as error:  # Not ours to look at: that is not the same as not there.
            raise _refused(param, error) from None
        try:
            model = inspect(name, param, self._path(name, BIN))
            note = self.note(name)
            if note is not None:
                for path, expected in ((model.param, note.param), (model.weights, note.bin)):
                    if _sha256(path) != expected:
                        raise ModelError(f"{path.name} has changed since it was installed.")
        except Missing:
            raise
        except ModelError as error:
            raise ModelError(f"The model {name} in {self.folder} is damaged. {error.text} {_again(name)}") from None
        except OSError as error:
            raise _refused(param, error) from None
        return model

    def note(self, name: str) -> Note | None:
        """Where a model is from; None where nobody wrote that down. Raises ModelError, OSError."""
        path = self._path(name, NOTE)
        try:
            with weights.open_regular(path) as file:
                note = Note(**json.loads(file.read(NOTE_BYTES_MAX)))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, RecursionError):
            raise ModelError(f"{path.name} cannot be read.") from None
        if not all(isinstance(value, int if key == "scale" else str) for key, value in asdict(note).items()):
            raise ModelError(f"{path.name} cannot be read.")
        return note

    def add(self, files: Sequence[Path]) -> tuple[Model, ...]:
        """Install files from disk: a .pth, or a .param and the .bin of the same name, which may be left unnamed.

        All are looked at before the first is installed. What has the same name already is replaced.
        """
        stems = dict.fromkeys(_stem(file) for file in files)
        prepared = []
        for stem, pth in stems:
            if not is_name(stem.name):
                raise ModelError(f"{stem.name!a} is no name for a model; use letters, digits, and . _ - + in it.")
            prepared.append(_official(stem.with_name(stem.name + PTH)) if pth else _pair(stem))
        names = [stem.name for stem, _ in stems]
        if len(set(names)) < len(names):
            raise ModelError("Two of the files would have the same name as models; rename one, or add one at a time.")
        with self.locked():
            return tuple(self._install(name, each) for name, each in zip(names, prepared, strict=True))

    def install(self, name: str, pth: Path, source: str, licence: str) -> Model:
        """Install a checkpoint that was downloaded to `pth`. Call it with the shelf locked."""
        prepared = _official(pth)
        return self._install(name, replace(prepared, source=source, licence=licence))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else changes the shelf meanwhile. Makes the folder. Raises ModelError where somebody does."""
        try:
            # It lies in the state directory, which is nobody else's business.
            self.folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.folder.mkdir(exist_ok=True)
            descriptor = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        except FileExistsError:
            raise ModelError(f"{self.folder} cannot be made: there is something else than a folder.") from None
        except OSError as error:
            raise _refused(self.folder, error) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise ModelError(f"Somebody else installs a model in {self.folder}; wait until that is done.") from None
        try:
            yield
        finally:
            os.close(descriptor)

    def _path(self, name: str, suffix: str) -> Path:
        if not is_name(name):
            raise ModelError(f"{name[:100]!a} is no name of a model.")
        return self.folder / f"{name}{suffix}"

    def _install(self, name: str, new: "_Prepared") -> Model:
        plan = layers.survey(form.parse(new.param))
        digests = [hashlib.sha256(data).hexdigest() for data in (new.param, new.bin)]
        note = Note(name, new.source, new.sha256, new.licence, plan.scale, *digests)
        contents = {
            NOTE: json.dumps(asdict(note), indent=2, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n",
            BIN: new.bin,
            PARAM: new.param,
        }
        temporary = {suffix: self.folder / f".{name}{suffix}.part" for suffix in contents}
        try:
            for suffix, data in contents.items():
                _write(temporary[suffix], data)
            # The old one is gone before the first of the new files is there: none is better than half of each.
            self._path(name, PARAM).unlink(missing_ok=True)
            _sync(self.folder)
            for suffix, path in temporary.items():
                path.replace(self._path(name, suffix))
            _sync(self.folder)
        except OSError as error:
            raise _refused(self.folder / name, error) from None
        finally:
            for path in temporary.values():
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)
        model = self.find(name)
        assert model is not None, "it was just put there"
        return model


@dataclass(frozen=True, slots=True)
class _Prepared:
    """What is about to be installed, looked at already. source, sha256, licence: see Note."""

    param: bytes
    bin: bytes
    source: str
    sha256: str
    licence: str


def inspect(name: str, param: Path, weights_: Path) -> Model:
    """A model from its two files, every byte looked at. Raises ModelError, OSError."""
    plan = layers.survey(form.parse(_read(param, form.TEXT_BYTES_MAX)))
    try:
        weights.check(weights_, plan.pieces)
    except FileNotFoundError:
        raise ModelError(f"{weights_.name} is missing.") from None
    return Model(name, param, weights_, plan.input, plan.output, plan.scale, plan.reach, plan.features)


def _stem(file: Path) -> tuple[Path, bool]:
    """The path of a model's file without its suffix, and whether it is a checkpoint."""
    if file.suffix not in (PARAM, BIN, PTH):
        raise ModelError(f"{file} is no model: a .pth, or a .param with its .bin, was expected.")
    return file.with_name(file.name.removesuffix(file.suffix)), file.suffix == PTH


def _pair(stem: Path) -> _Prepared:
    param, bin_ = (stem.with_name(stem.name + suffix) for suffix in (PARAM, BIN))
    try:
        text, data = _read(param, form.TEXT_BYTES_MAX), _read(bin_, checkpoint.FILE_BYTES_MAX)
    except OSError as error:
        raise _refused(Path(error.filename or param), error) from None
    # What is looked at is what is installed, whoever writes to the files meanwhile.
    weights.check_open(io.BytesIO(data), len(data), bin_.name, layers.survey(form.parse(text)).pieces)
    sha256 = hashlib.sha256(data).hexdigest()
    return _Prepared(text, data, str(bin_.absolute()), sha256, _licence(sha256))


def _official(pth: Path) -> _Prepared:
    try:
        text, data = convert(checkpoint.read(pth))
        sha256 = _sha256(pth)
    except OSError as error:
        raise _refused(pth, error) from None
    return _Prepared(text.encode(), data, str(pth.absolute()), sha256, _licence(sha256))


def _licence(sha256: str) -> str:
    known = catalogue.recognised(sha256)
    return known.licence if known else ""


def _again(name: str) -> str:
    if catalogue.named(name):
        return f"Install it again: esrgand models pull {name}"
    return "Install it again with esrgand models add."


def _refused(path: Path, error: OSError) -> ModelError:
    return ModelError(f"{path}: {error.strerror or error}.")


def _read(path: Path, bytes_max: int) -> bytes:
    with weights.open_regular(path) as file:
        data = file.read(bytes_max + 1)
    if len(data) > bytes_max:
        raise ModelError(f"{path.name} has more than {bytes_max} bytes.")
    return data


def _sha256(path: Path) -> str:
    with weights.open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(path: Path, data: bytes) -> None:
    path.unlink(missing_ok=True)  # Of a crash; and never through a link.
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
