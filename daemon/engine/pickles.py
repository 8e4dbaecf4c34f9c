"""
Pickles: what `torch.save` pickled, read without torch and without running anything.

A pickle is a program, and a hostile one calls whatever it likes. This reader is no unpickler with a list of forbidden
names: it knows the few instructions that a file of tensors needs and five names, which it takes for words, never for
code. Nothing is imported or called on a pickle's behalf; all else is a `ModelError`. Pure.
"""

import io
import pickletools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from daemon.engine.model import ModelError

PICKLE_BYTES_MAX = 4 << 20  # of RRDBNet's it has 0.2
MEMO_MAX = 1 << 20
WORD_BYTES_MAX = 256
DIMENSIONS_MAX = 8
ELEMENTS_MAX = 1 << 28
# Bytes of an element, and how numpy reads it; bfloat16 is the upper half of an fp32.
STORAGES = {
    "FloatStorage": (4, "<f4"),
    "HalfStorage": (2, "<f2"),
    "DoubleStorage": (8, "<f8"),
    "BFloat16Storage": (2, "<u2"),
}

OPCODES = {opcode.code.encode("latin-1"): opcode for opcode in pickletools.opcodes}

_KEY = re.compile(r"[0-9]{1,20}", re.ASCII)  # an address in memory, in files of older versions


@dataclass(frozen=True, slots=True)
class Storage:
    """A row of numbers in the container. key: the name of its entry. count: elements."""

    key: str
    kind: str
    count: int


@dataclass(frozen=True, slots=True)
class Tensor:
    """A view of a storage, that lies inside it. offset, strides: in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def count(self) -> int:
        """Elements."""
        count = 1
        for side in self.shape:
            count *= side
        return count


@dataclass(frozen=True, slots=True)
class _Word:
    """A name that a pickle refers to."""

    module: str
    name: str


class _Mark:
    """Where a tuple, or a group of items, begins on the stack."""


def loads(data: bytes) -> Any:
    """What was pickled: dicts, lists, tuples, str, numbers, and tensors. Raises ModelError."""
    if len(data) > PICKLE_BYTES_MAX:
        raise ModelError(f"Its table of contents has more than {PICKLE_BYTES_MAX} bytes; no network's has.")
    machine, file = _Machine(), io.BytesIO(data)
    try:
        while code := file.read(1):
            name = OPCODES[code].name if code in OPCODES else f"{code[0]:#04x}"
            if name == "STOP":
                return machine.end()
            # What is not known is not even decoded.
            if name not in KNOWN:
                _refuse(f"instruction {name}")
            machine.step(name, _argument(code, file))
    except (ValueError, IndexError, OverflowError):  # Cut off, not text, more taken than there is.
        raise ModelError("Its table of contents is damaged; copy it again.") from None
    raise ModelError("Its table of contents is cut off; copy it again.")


def _argument(code: bytes, file: io.BytesIO) -> Any:
    """What follows an instruction in the file."""
    if OPCODES[code].name == "GLOBAL":  # Two lines. pickletools would look for backslashes in them.
        return tuple(file.readline(WORD_BYTES_MAX).removesuffix(b"\n").decode("ascii") for _ in range(2))
    kind = OPCODES[code].arg
    return kind.reader(file) if kind is not None else None


def _refuse(what: str) -> NoReturn:
    raise ModelError(
        f"It holds more than weights ({what[:80]!a}), which could run as a program; nothing of it was run. "
        "Take the official file."
    )


def _damaged() -> NoReturn:
    raise ModelError("Its table of contents makes no sense; it is damaged, or made to do harm. Nothing of it was run.")


class _Machine:
    """The stack and the memo of a pickle, and the instructions that are known."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        """One instruction, of those that are known."""
        if name in CONSTANTS:
            self._stack.append(CONSTANTS[name])
        elif name in ARGUMENTS:
            self._stack.append(argument)
        else:
            INSTRUCTIONS[name](self, argument)

    def end(self) -> Any:
        """What is left at the end."""
        if len(self._stack) != 1 or isinstance(self._stack[0], _Mark | _Word):
            _damaged()
        return self._stack[0]

    def nothing(self, _: Any) -> None:
        """Framing, and the protocol's number."""

    def fresh_dict(self, _: Any) -> None:
        self._stack.append({})

    def fresh_list(self, _: Any) -> None:
        self._stack.append([])

    def mark(self, _: Any) -> None:
        self._stack.append(_Mark())

    def put(self, index: int) -> None:
        if index > MEMO_MAX:
            _damaged()
        self._memo[index] = self._top()

    def memoize(self, _: Any) -> None:
        self.put(len(self._memo))

    def get(self, index: int) -> None:
        if index not in self._memo:
            _damaged()
        self._stack.append(self._memo[index])

    def word(self, names: tuple[str, str]) -> None:
        """GLOBAL: a module and a name in it."""
        self._refer(*names)

    def stack_word(self, _: Any) -> None:
        name, module = self._pop(), self._pop()
        if not isinstance(module, str) or not isinstance(name, str):
            _damaged()
        self._refer(module, name)

    def _refer(self, module: str, name: str) -> None:
        word = _Word(module, name)
        if word not in CALLS and not (module == "torch" and name in STORAGES):
            if module == "torch" and name.endswith("Storage"):
                raise ModelError(f"It holds numbers of a kind ({name[:40]!a}) that no network known here has.")
            _refuse(f"{module}.{name}")
        self._stack.append(word)

    def storage(self, _: Any) -> None:
        """BINPERSID: torch's reference to an entry of the container."""
        match self._pop():
            case ("storage", _Word("torch", kind), str(key), str(), int(count)):
                if not _KEY.fullmatch(key) or not _is_whole(count) or not 0 <= count <= ELEMENTS_MAX:
                    _damaged()
                self._stack.append(Storage(key, kind, count))
            case _:
                _damaged()

    def call(self, _: Any) -> None:
        """REDUCE, of the few calls that we do ourselves."""
        arguments, word = self._pop(), self._pop()
        if not isinstance(arguments, tuple) or not isinstance(word, _Word) or word not in CALLS:
            _damaged()
        self._stack.append(CALLS[word](arguments))

    def build(self, _: Any) -> None:
        """BUILD: attributes of an OrderedDict (torch's `_metadata`: versions of layers), which nobody needs."""
        self._pop()
        if not isinstance(self._top(), dict):
            _damaged()

    def group(self, _: Any) -> None:
        self._stack.append(tuple(self._since_mark()))

    def group_of(self, count: int) -> None:
        items = [self._pop() for _ in range(count)]
        self._stack.append(tuple(reversed(items)))

    def append(self, _: Any) -> None:
        self._extend([self._pop()])

    def appends(self, _: Any) -> None:
        self._extend(self._since_mark())

    def _extend(self, items: list[Any]) -> None:
        target = self._top()
        if not isinstance(target, list):
            _damaged()
        target.extend(items)

    def set_item(self, _: Any) -> None:
        value, key = self._pop(), self._pop()
        self._update([key, value])

    def set_items(self, _: Any) -> None:
        self._update(self._since_mark())

    def _update(self, items: list[Any]) -> None:
        target = self._top()
        if not isinstance(target, dict) or len(items) % 2:
            _damaged()
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str | int):  # A tuple nested a million deep has a hash that ends the process.
                _damaged()
            target[key] = value

    def _top(self) -> Any:
        if isinstance(self._stack[-1], _Mark):
            _damaged()
        return self._stack[-1]

    def _pop(self) -> Any:
        self._top()
        return self._stack.pop()

    def _since_mark(self) -> list[Any]:
        items: list[Any] = []
        while not isinstance(item := self._stack.pop(), _Mark):
            items.append(item)
        return items[::-1]


def _is_whole(value: Any) -> bool:
    return type(value) is int and 0 <= value <= ELEMENTS_MAX


def _tensor(arguments: tuple[Any, ...]) -> Tensor:
    """As torch._utils._rebuild_tensor_v2, after a look at every number."""
    match arguments:
        case (Storage() as storage, offset, tuple(shape), tuple(strides), *_):
            pass
        case _:
            _damaged()
    if len(shape) != len(strides) or len(shape) > DIMENSIONS_MAX or not all(map(_is_whole, (offset, *shape, *strides))):
        _damaged()
    tensor = Tensor(storage, offset, shape, strides)
    last = offset + sum((side - 1) * stride for side, stride in zip(shape, strides, strict=True))
    # No more elements than the storage has, however often a stride of 0 would repeat them.
    if tensor.count > storage.count or (tensor.count and last >= storage.count):
        _damaged()
    return tensor


def _parameter(arguments: tuple[Any, ...]) -> Tensor:
    """As torch._utils._rebuild_parameter: the tensor itself."""
    if not arguments or not isinstance(arguments[0], Tensor):
        _damaged()
    return arguments[0]


def _ordered_dict(arguments: tuple[Any, ...]) -> dict[Any, Any]:
    if arguments:
        _damaged()
    return {}


CALLS: dict[_Word, Callable[[tuple[Any, ...]], Any]] = {
    _Word("torch._utils", "_rebuild_tensor_v2"): _tensor,
    _Word("torch._utils", "_rebuild_parameter"): _parameter,
    _Word("collections", "OrderedDict"): _ordered_dict,
}
CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
ARGUMENTS = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE"}
INSTRUCTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": _Machine.nothing,
    "FRAME": _Machine.nothing,
    "EMPTY_DICT": _Machine.fresh_dict,
    "EMPTY_LIST": _Machine.fresh_list,
    "MARK": _Machine.mark,
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "MEMOIZE": _Machine.memoize,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "GLOBAL": _Machine.word,
    "STACK_GLOBAL": _Machine.stack_word,
    "BINPERSID": _Machine.storage,
    "REDUCE": _Machine.call,
    "BUILD": _Machine.build,
    "TUPLE": _Machine.group,
    "TUPLE1": lambda machine, _: machine.group_of(1),
    "TUPLE2": lambda machine, _: machine.group_of(2),
    "TUPLE3": lambda machine, _: machine.group_of(3),
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
}
KNOWN = CONSTANTS.keys() | ARGUMENTS | INSTRUCTIONS.keys()
