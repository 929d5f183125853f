"""Read pickles of plain data and numpy arrays, such as CIFAR's batches, without executing them.

A pickle is a program for a stack machine:

    K U ] } …         push a number, a string, an empty list, an empty dict
    ( … t l d         MARK marks a stack position; the items above it become a tuple, a list, a dict
    ( … e u           the items above the mark are added to the list, the dict below it
    q h               the memo: store the top item under a number, push it again
    c … R b           GLOBAL pushes a name, REDUCE calls it with a tuple, BUILD sets the state of the result

`pickle.load` looks up and calls whatever the file names. Here, names are only compared. The few calls that encode numpy
arrays and bytes create placeholders (`_DType`, `_Array`) or bytes. All other calls, and opcodes that plain data never
need, raise ValueError.

Invariant: stack and memo hold only plain data and our placeholders. The result holds only plain data and arrays, never
an object chosen by the file.

An `Unpickler` with an allow-list runs nothing either, but 9 bytes (LONG_BINPUT) make it allocate 4 GB: see
docs/decisions.md.
"""

from __future__ import annotations

import pickletools
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

_PLAIN = frozenset((
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
    "STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
    "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8",
))  # fmt: skip
_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_RECONSTRUCT = {("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct")}
_FROMBUFFER = {("numpy.core.numeric", "_frombuffer"), ("numpy._core.numeric", "_frombuffer")}
_EMPTY_BYTES = {("__builtin__", "bytes"), ("builtins", "bytes")}  # how Python 3 spells b"" in protocol 2
_DTYPE = re.compile(r"[biufSU]\d{1,9}")  # numpy parses longer descriptions, of records for example, as Python


class _Refused(Exception):
    pass


@dataclass(frozen=True)
class _Name:
    """A name the pickle would import; only compared, never looked up."""

    module: str
    name: str


@dataclass
class _DType:
    text: str
    order: str = "|"


@dataclass
class _Array:
    values: np.ndarray | None = None


@dataclass
class _Machine:
    stack: list[Any] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def pop(self, count: int | None) -> list[Any]:
        """Remove and return the topmost `count` items, or all items above the last mark if `count` is None.

        Raise IndexError if there are fewer items, or no mark.
        """
        start = self.marks.pop() if count is None else len(self.stack) - count
        if start < 0:
            raise IndexError("the stack is empty")
        items = self.stack[start:]
        del self.stack[start:]
        return items


def load_plain(data: bytes, where: str) -> Any:
    """Return the object in the pickle `data`, which may contain plain data and numpy arrays.

    Strings of Python 2 are returned as str (decoded as latin-1), bytes of Python 3 as bytes.

    Raise ValueError for a damaged pickle, or one with calls or opcodes that such data never need. The message begins
    with `where`.
    """
    machine = _Machine()
    try:
        for opcode, argument, offset in pickletools.genops(data):
            if opcode.name == "STOP":
                return _plain(machine.stack.pop(), {})
            try:
                _step(machine, opcode.name, argument)
            except _Refused as error:
                raise ValueError(f"at byte {offset}: {error}; refused: it is not a file of plain arrays") from None
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    except (IndexError, KeyError, TypeError, AttributeError, OverflowError, MemoryError, RecursionError) as error:
        raise ValueError(f"{where}: a damaged pickle ({type(error).__name__}: {error}); fetch the file again") from None
    raise ValueError(f"{where}: a pickle without an end; fetch the file again")


def _step(machine: _Machine, code: str, argument: Any) -> None:
    stack = machine.stack
    if code in _PLAIN:
        stack.append(argument)
    elif code in _CONSTANTS:
        stack.append(_CONSTANTS[code])
    elif code in _CONTAINERS:
        count, build = _CONTAINERS[code]
        stack.append(build(machine.pop(count)))
    elif code in _ADDITIONS:
        count, add = _ADDITIONS[code]
        items = machine.pop(count)
        add(stack[-1], items)
    elif code == "MARK":
        machine.marks.append(len(stack))
    elif code == "POP":
        stack.pop()
    elif code == "POP_MARK":
        machine.pop(None)
    elif code == "DUP":
        stack.append(stack[-1])
    elif code in ("PUT", "BINPUT", "LONG_BINPUT"):
        machine.memo[int(argument)] = stack[-1]
    elif code == "MEMOIZE":
        machine.memo[len(machine.memo)] = stack[-1]
    elif code in ("GET", "BINGET", "LONG_BINGET"):
        stack.append(machine.memo[int(argument)])
    elif code == "GLOBAL":
        stack.append(_Name(*argument.split(" ")))
    elif code == "STACK_GLOBAL":
        module, name = machine.pop(2)
        stack.append(_Name(str(module), str(name)))
    elif code == "REDUCE":
        name, arguments = machine.pop(2)
        stack.append(_call(name, arguments))
    elif code == "BUILD":
        state = stack.pop()
        _set_state(stack[-1], state)
    elif code not in ("PROTO", "FRAME"):
        raise _Refused(f"the opcode {code}")


def _extend(target: Any, items: list[Any]) -> None:
    if not isinstance(target, list):
        raise _Refused(f"appending to a {type(target).__name__}")
    target.extend(items)


def _set_items(target: Any, pairs: list[Any]) -> None:
    if not isinstance(target, dict):
        raise _Refused(f"items set on a {type(target).__name__}")
    for key, value in zip(pairs[::2], pairs[1::2], strict=True):
        target[key] = value


def _dict(pairs: list[Any]) -> dict[Any, Any]:
    found: dict[Any, Any] = {}
    _set_items(found, pairs)
    return found


# For each opcode: the number of stack items it pops (None: those above the mark), and what it does with them.
_CONTAINERS: dict[str, tuple[int | None, Callable[[list[Any]], Any]]] = {
    "EMPTY_TUPLE": (0, tuple),
    "EMPTY_LIST": (0, list),
    "EMPTY_DICT": (0, _dict),
    "TUPLE1": (1, tuple),
    "TUPLE2": (2, tuple),
    "TUPLE3": (3, tuple),
    "TUPLE": (None, tuple),
    "LIST": (None, list),
    "DICT": (None, _dict),
}
_ADDITIONS: dict[str, tuple[int | None, Callable[[Any, list[Any]], None]]] = {
    "APPEND": (1, _extend),
    "APPENDS": (None, _extend),
    "SETITEM": (2, _set_items),
    "SETITEMS": (None, _set_items),
}


def _call(name: Any, arguments: Any) -> Any:
    if not isinstance(name, _Name) or not isinstance(arguments, tuple):
        raise _Refused("a call of something that is not a name")
    called = (name.module, name.name)
    if called in _RECONSTRUCT:
        return _Array()
    if called == ("numpy", "dtype"):
        return _DType(as_text(arguments[0]))
    if called == ("_codecs", "encode") and arguments[1:] in (("latin1",), ("latin-1",)):
        return arguments[0].encode("latin-1")
    if called in _EMPTY_BYTES and arguments == ():
        return b""
    if called in _FROMBUFFER:
        raw, dtype, shape, order = arguments
        return _Array(_array(raw, dtype, shape, fortran=order == "F"))
    raise _Refused(f"a call of {name.module}.{name.name}")


def _set_state(target: Any, state: Any) -> None:
    if isinstance(target, _DType):
        target.order = as_text(state[1])
    elif isinstance(target, _Array):
        _, shape, dtype, fortran, raw = state
        target.values = _array(raw, dtype, shape, fortran=bool(fortran))
    else:
        raise _Refused(f"a state for a {type(target).__name__}")


def _array(raw: Any, dtype: Any, shape: Any, *, fortran: bool) -> np.ndarray:
    if not isinstance(dtype, _DType) or not _DTYPE.fullmatch(dtype.text):
        raise _Refused(f"an array of type {getattr(dtype, 'text', None)!r}")
    stored = np.dtype(dtype.text).newbyteorder(">" if dtype.order == ">" else "<")
    values = np.frombuffer(raw.encode("latin-1") if isinstance(raw, str) else raw, dtype=stored)
    return values.reshape(tuple(int(size) for size in shape), order="F" if fortran else "C").copy()


def as_text(value: Any) -> str:
    """Return a value from a pickle as a string; bytes are decoded as latin-1."""
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def _plain(value: Any, done: dict[int, Any]) -> Any:
    """Return `value` with containers copied and each `_Array` in it replaced by its numpy array.

    `done` maps the id of each converted object to its result, and is updated. An object that occurs several times is
    therefore converted once. Raise ValueError for a `_Name` or `_DType` in `value`, and for an `_Array` without data.
    """
    if id(value) in done:
        return done[id(value)]
    if isinstance(value, (_Name, _DType)):
        raise ValueError(f"holds {value}; refused: it is not a file of plain arrays")
    if isinstance(value, _Array):
        if value.values is None:
            raise ValueError("an array without its data; fetch the file again")
        result: Any = value.values
    elif isinstance(value, dict):
        result = {_plain(key, done): _plain(item, done) for key, item in value.items()}
    elif isinstance(value, (list, tuple)):
        result = type(value)(_plain(item, done) for item in value)
    else:
        return value
    done[id(value)] = result
    return result
