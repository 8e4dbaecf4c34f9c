"""
Checkpoint: the weights in an official `.pth`, which is a zip that `torch.save` made, read without torch.

Nothing is unpacked to disk, nothing is run (`pickles.py`), and nothing is read that is larger than the file itself:
torch stores without compression, so whatever is compressed is no file of torch's. Raises `ModelError`; the system's
own errors come as they are.
"""

import errno
import os
import struct
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from daemon.engine import pickles
from daemon.engine.model import ModelError, extra
from daemon.engine.pickles import Tensor
from daemon.engine.weights import open_regular

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FILE_BYTES_MAX = 512 << 20
ENTRIES_MAX = 10_000
# Where the weights are: the smoothed ones before those of the last step, as the official program chooses.
WRAPPERS = ("params_ema", "params")
CONTENTS = "/data.pkl"
ENCRYPTED = 1
DAMAGED = "It is cut off or damaged; copy it again."
OLD = (b"\x80\x02", b"\x80\x03", b"\x80\x04")  # how a bare pickle begins

State = dict[str, "NDArray[np.float32]"]


def read(path: Path) -> State:
    """The state dict: the weights of each layer by their official names, fp32."""
    try:
        with open_regular(path) as file:
            return _read(file)
    except ModelError as error:
        raise ModelError(f"{path.name} cannot be used. {error.text}") from None


def _read(file: BinaryIO) -> State:
    size = os.fstat(file.fileno()).st_size
    head = file.read(4)
    if head.startswith(OLD):
        raise ModelError(
            "It was written by torch before version 1.6; open it with torch and save it again, or take the official "
            "file."
        )
    if not head.startswith(b"PK"):
        raise ModelError("It is not a file of torch.save (no zip); a download may have gone wrong.")
    if size > FILE_BYTES_MAX:
        raise ModelError(f"It has more than {FILE_BYTES_MAX >> 20} MiB; no network that is known here has.")
    try:
        with zipfile.ZipFile(file) as container:
            return _weights(_Container(container, size))
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError, RuntimeError, struct.error):
        raise ModelError(DAMAGED) from None
    except OSError as error:
        if error.errno == errno.EINVAL:  # Its directory leads to a place before its beginning.
            raise ModelError(DAMAGED) from None
        raise


class _Container:
    """The entries of a zip, by name, each of which lies in it as it is."""

    def __init__(self, container: zipfile.ZipFile, size: int) -> None:
        self._zip = container
        entries = container.infolist()
        if len(entries) > ENTRIES_MAX or len({entry.filename for entry in entries}) < len(entries):
            raise ModelError("Its entries are too many, or two have one name.")
        if any(entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & ENCRYPTED for entry in entries):
            raise ModelError("It is compressed or encrypted, which torch.save never does.")
        if any(entry.file_size != entry.compress_size for entry in entries):
            raise ModelError("Its entries are not as large as they say.")
        if sum(entry.file_size for entry in entries) > size:
            raise ModelError("Its entries are larger than itself.")
        self._sizes = {entry.filename: entry.file_size for entry in entries}
        contents = [name for name in self._sizes if name.endswith(CONTENTS) and name.count("/") == 1]
        if len(contents) != 1:
            raise ModelError("It is a zip, but not one of torch.save: it has no table of contents (data.pkl).")
        self._root = contents[0].removesuffix(CONTENTS)

    def size(self, name: str) -> int | None:
        """Bytes of an entry, or None where there is none."""
        return self._sizes.get(f"{self._root}/{name}")

    def read(self, name: str) -> bytes:
        """A whole entry, its checksum tried."""
        return self._zip.read(f"{self._root}/{name}")


def _weights(container: _Container) -> State:
    if (container.size("data.pkl") or 0) > pickles.PICKLE_BYTES_MAX:
        raise ModelError("Its table of contents is too large.")
    if container.size("byteorder") == len(b"big") and container.read("byteorder") == b"big":
        raise ModelError("It was written on a machine with another order of bytes; take the official file.")
    tensors = _chosen(pickles.loads(container.read("data.pkl")))
    storages = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
    if sum(tensor.count for tensor in tensors.values()) > sum(storage.count for storage in storages.values()):
        raise ModelError("Its tensors share their numbers, which those of no network that is known here do.")
    return {name: _array(container, tensor) for name, tensor in tensors.items()}


def _chosen(contents: Any) -> dict[str, Tensor]:
    if not isinstance(contents, dict):
        raise ModelError("It holds no weights by name.")
    inner = next((contents[wrapper] for wrapper in WRAPPERS if wrapper in contents), contents)
    if not isinstance(inner, dict) or not inner:
        raise ModelError("It holds no weights by name.")
    for name, value in inner.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ModelError(f"It holds something else than weights ({str(name)[:40]!a}); take the official file.")
    return inner


def _array(container: _Container, tensor: Tensor) -> "NDArray[np.float32]":
    """Numbers of a tensor, copied out of its storage."""
    with extra():
        import numpy as np
    width, form = pickles.STORAGES[tensor.storage.kind]
    entry = f"data/{tensor.storage.key}"
    if container.size(entry) != tensor.storage.count * width:
        raise ModelError(f"Its entry {entry} is missing, or not as large as its table of contents says.")
    numbers = np.frombuffer(container.read(entry), form)
    if tensor.storage.kind == "BFloat16Storage":
        numbers = (numbers.astype("<u4") << 16).view("<f4")
    if tensor.count == 0:
        return np.zeros(tensor.shape, np.float32)
    strides = [stride * numbers.itemsize for stride in tensor.strides]
    view = np.lib.stride_tricks.as_strided(numbers[tensor.offset :], tensor.shape, strides, writeable=False)
    with np.errstate(over="ignore"):  # What is infinite then is refused by whoever takes it.
        return view.astype(np.float32)
