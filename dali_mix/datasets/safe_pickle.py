"""Reads pickles of plain data and numpy arrays without running anything in them.

`pickle.load` calls whatever the file names. This reader follows the opcodes itself and calls nothing: numbers, texts,
bytes, lists, tuples, dicts, and the four ways numpy and Python 2 spell an array or bytes, which it recognises by name
and builds on its own. An `Unpickler` with an allow-list runs nothing either, but 9 bytes (LONG_BINPUT) make it allocate
4 GB: see docs/decisions.md. Everything else a pickle can ask for is a ValueError. CIFAR's batches are such files.
"""

from __future__ import annotations

import pickletools
import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np

_PLAIN = frozenset(
    [
        "INT",
        "BININT",
        "BININT1",
        "BININT2",
        "LONG",
        "LONG1",
        "LONG4",
        "FLOAT",
        "BINFLOAT",
        "STRING",
        "BINSTRING",
        "SHORT_BINSTRING",
        "BINBYTES",
        "SHORT_BINBYTES",
        "BINBYTES8",
        "BYTEARRAY8",
        "UNICODE",
        "SHORT_BINUNICODE",
        "BINUNICODE",
        "BINUNICODE8",
    ]
)
_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_SKIPPED = frozenset(("PROTO", "FRAME"))
_RECONSTRUCT = {("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct")}
_FROMBUFFER = {("numpy.core.numeric", "_frombuffer"), ("numpy._core.numeric", "_frombuffer")}
_EMPTY_BYTES = {("__builtin__", "bytes"), ("builtins", "bytes")}  # how Python 3 spells b"" in protocol 2
_DTYPE = re.compile(r"[biufSU]\d{1,9}")  # numpy parses longer descriptions, of records for example, as Python


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

    def since_mark(self) -> list[Any]:
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items


def load_plain(data: bytes, where: str) -> Any:
    """The object in the pickle `data`. Arrays come as numpy arrays; Python 2 strings as text (latin-1), their arrays'
    data as bytes.

    Raises ValueError, beginning with `where`, for a damaged pickle and for one that asks for any call but numpy's for
    arrays.
    """
    machine = _Machine()
    try:
        for opcode, argument, place in pickletools.genops(data):
            if opcode.name == "STOP":
                return _plain(machine.stack.pop())
            try:
                _step(machine, opcode.name, argument)
            except _Refused as error:
                raise ValueError(f"at byte {place}: {error}; refused: it is not a file of plain arrays") from None
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    except (IndexError, KeyError, TypeError, AttributeError, OverflowError, MemoryError, RecursionError) as error:
        raise ValueError(f"{where}: a damaged pickle ({type(error).__name__}: {error}); fetch the file again") from None
    raise ValueError(f"{where}: a pickle without an end; fetch the file again")


class _Refused(Exception):
    pass


def _step(machine: _Machine, code: str, argument: Any) -> None:
    stack = machine.stack
    if code in _PLAIN:
        stack.append(argument)
    elif code in _CONSTANTS:
        stack.append(_CONSTANTS[code])
    elif code == "MARK":
        machine.marks.append(len(stack))
    elif code in ("PUT", "BINPUT", "LONG_BINPUT"):
        machine.memo[int(argument)] = stack[-1]
    elif code == "MEMOIZE":
        machine.memo[len(machine.memo)] = stack[-1]
    elif code in ("GET", "BINGET", "LONG_BINGET"):
        stack.append(machine.memo[int(argument)])
    elif code in ("POP", "DUP", "POP_MARK"):
        _drop_or_copy(machine, code)
    elif code in _BUILDERS:
        _BUILDERS[code](machine)
    elif code == "GLOBAL":
        stack.append(_Name(*argument.split(" ")))
    elif code == "STACK_GLOBAL":
        name, module = stack.pop(), stack.pop()
        stack.append(_Name(str(module), str(name)))
    elif code == "REDUCE":
        arguments, name = stack.pop(), stack.pop()
        stack.append(_call(name, arguments))
    elif code == "BUILD":
        state = stack.pop()
        _set_state(stack[-1], state)
    elif code not in _SKIPPED:
        raise _Refused(f"the opcode {code}")


def _drop_or_copy(machine: _Machine, code: str) -> None:
    if code == "POP":
        machine.stack.pop()
    elif code == "DUP":
        machine.stack.append(machine.stack[-1])
    else:
        machine.since_mark()


def _tuple_of(count: int) -> Any:
    def build(machine: _Machine) -> None:
        items = tuple(machine.stack[len(machine.stack) - count :])
        if len(items) != count:
            raise IndexError("the stack is empty")
        del machine.stack[len(machine.stack) - count :]
        machine.stack.append(items)

    return build


def _set_items(machine: _Machine, pairs: list[Any]) -> None:
    target = machine.stack[-1]
    if not isinstance(target, dict):
        raise _Refused(f"items set on a {type(target).__name__}")
    for key, value in zip(pairs[::2], pairs[1::2], strict=True):
        target[key] = value


def _extend(machine: _Machine, items: list[Any]) -> None:
    target = machine.stack[-1]
    if not isinstance(target, list):
        raise _Refused(f"appending to a {type(target).__name__}")
    target.extend(items)


def _append(machine: _Machine) -> None:
    item = machine.stack.pop()
    _extend(machine, [item])


def _set_item(machine: _Machine) -> None:
    value, key = machine.stack.pop(), machine.stack.pop()
    _set_items(machine, [key, value])


def _dict(machine: _Machine) -> None:
    pairs = machine.since_mark()
    machine.stack.append({})
    _set_items(machine, pairs)


_BUILDERS: dict[str, Any] = {
    "EMPTY_TUPLE": lambda machine: machine.stack.append(()),
    "EMPTY_LIST": lambda machine: machine.stack.append([]),
    "EMPTY_DICT": lambda machine: machine.stack.append({}),
    "TUPLE1": _tuple_of(1),
    "TUPLE2": _tuple_of(2),
    "TUPLE3": _tuple_of(3),
    "TUPLE": lambda machine: machine.stack.append(tuple(machine.since_mark())),
    "LIST": lambda machine: machine.stack.append(machine.since_mark()),
    "DICT": _dict,
    "APPEND": _append,
    "APPENDS": lambda machine: _extend(machine, machine.since_mark()),
    "SETITEM": _set_item,
    "SETITEMS": lambda machine: _set_items(machine, machine.since_mark()),
}


def _call(name: Any, arguments: Any) -> Any:
    if not isinstance(name, _Name) or not isinstance(arguments, tuple):
        raise _Refused("a call of something that is no name")
    called = (name.module, name.name)
    if called in _RECONSTRUCT:
        return _Array()
    if called == ("numpy", "dtype"):
        return _DType(_text(arguments[0]))
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
        target.order = _text(state[1])
    elif isinstance(target, _Array):
        _, shape, dtype, fortran, raw = state
        target.values = _array(raw, dtype, shape, fortran=bool(fortran))
    else:
        raise _Refused(f"a state for a {type(target).__name__}")


def _array(raw: Any, dtype: Any, shape: Any, *, fortran: bool) -> np.ndarray:
    if not isinstance(dtype, _DType):
        raise _Refused("an array of an unknown type")
    if not _DTYPE.fullmatch(dtype.text):
        raise _Refused(f"an array of type {dtype.text!r}")
    plain = np.dtype(dtype.text)
    kind = plain.newbyteorder(">") if dtype.order == ">" else plain.newbyteorder("<")
    if isinstance(raw, str):
        raw = raw.encode("latin-1")
    values = np.frombuffer(raw, dtype=kind)
    sizes = tuple(int(size) for size in shape)
    return values.reshape(sizes, order="F" if fortran else "C").copy()


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def _plain(value: Any, done: dict[int, Any] | None = None) -> Any:
    """Replaces the stand-ins by their arrays, and refuses names that were left uncalled. What is shared stays
    shared."""
    done = {} if done is None else done
    if id(value) in done:
        return done[id(value)]
    result = value
    if isinstance(value, _Array):
        if value.values is None:
            raise ValueError("an array without its data; fetch the file again")
        result = value.values
    elif isinstance(value, dict):
        result = {_plain(key, done): _plain(item, done) for key, item in value.items()}
    elif isinstance(value, (list, tuple)):
        result = type(value)(_plain(item, done) for item in value)
    elif isinstance(value, (_Name, _DType)):
        raise ValueError(f"holds {value}; refused: it is not a file of plain arrays")
    if isinstance(value, (_Array, dict, list, tuple)):
        done[id(value)] = result
    return result
