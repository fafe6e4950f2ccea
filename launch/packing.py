"""Messages and journal records as bytes: msgpack, with arrays as an extension type of our own.

What came from outside is walked over before anything is built from it (`check`): every length must lie inside the data, the
number of values and the depth are bounded, so that neither memory nor time can exceed what the message's own size warrants.
There is no pickle and nothing that could name code.

    None, bool, int (64 bit), float, str, bytes, list (tuples become lists), dict with text keys, numpy arrays of `DTYPES`

An array is the extension type 1: dtype code (1 byte), number of axes (1 byte), each axis (uint32, little-endian), then its
values in C order, little-endian.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from policies.errors import BadArtifact, BadInput, MissingExtra

try:
    import msgpack
except ImportError as error:
    raise MissingExtra(
        f"messages and flight journals need msgpack ({error}); pip install 'steer-agents[server]'."
    ) from None

DTYPES = (
    "bool",
    "uint8",
    "int8",
    "uint16",
    "int16",
    "uint32",
    "int32",
    "uint64",
    "int64",
    "float16",
    "float32",
    "float64",
)
"""Types of arrays, in the order of their codes."""
ARRAY = 1
"""The extension type of arrays."""
MAX_VALUES, MAX_DEPTH, MAX_AXES, MAX_BYTES = 4096, 8, 8, 1 << 28
"""Most values of a message (what is inside arrays not counted), levels of nesting, axes of an array, bytes."""


class BadMessage(BadArtifact):
    """Bytes that are no message, or one beyond the limits."""


def pack(value: Any) -> bytes:
    """Bytes of a value.

    Raises:
        BadInput: it holds something that has no form here (objects, dtypes that are not of `DTYPES`).
    """
    try:
        packed: bytes = msgpack.packb(value, default=_extended, strict_types=False)
    except (TypeError, ValueError, OverflowError) as error:
        raise BadInput(
            f"cannot be packed: {error}. Allowed: None, bool, int, float, str, bytes, lists, dicts and arrays of {', '.join(DTYPES)}."
        ) from None
    return packed


def unpack(data: bytes | memoryview, *, max_values: int = MAX_VALUES, max_depth: int = MAX_DEPTH) -> Any:
    """The value of bytes that may come from anywhere; arrays are writable and own their memory.

    Raises:
        BadMessage: truncated, followed by other bytes, too many values, nested too deeply, an unknown type or a broken array.
    """
    check(data, max_values=max_values, max_depth=max_depth)
    try:
        return msgpack.unpackb(data, ext_hook=_array, strict_map_key=True, raw=False)
    except BadMessage:
        raise
    except (ValueError, TypeError, msgpack.exceptions.UnpackException) as error:
        raise BadMessage(f"these {len(data)} bytes are no message: {error or type(error).__name__}.") from None


def _extended(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        name = value.dtype.name
        if name not in DTYPES or value.ndim > MAX_AXES:
            raise TypeError(f"an array of dtype {value.dtype} with {value.ndim} axes")
        values = np.ascontiguousarray(value, dtype=value.dtype.newbyteorder("<"))
        head = struct.pack(f"<BB{value.ndim}I", DTYPES.index(name), value.ndim, *value.shape)
        return msgpack.ExtType(ARRAY, head + values.tobytes())
    if isinstance(value, np.generic) and value.dtype.name in DTYPES:
        return value.item()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} has no form in a message")


def _array(code: int, body: bytes) -> np.ndarray:
    """An array of its bytes; called for every extension type. Nothing is allocated before all numbers fit."""
    if code != ARRAY:
        raise BadMessage(f"extension type {code} is unknown; allowed is {ARRAY}, an array.")
    if len(body) < 2 or body[0] >= len(DTYPES) or body[1] > MAX_AXES or len(body) < 2 + 4 * body[1]:
        raise BadMessage(f"an array's head is broken: {body[:2].hex()}, {len(body)} bytes.")
    axes = body[1]
    shape = struct.unpack_from(f"<{axes}I", body, 2)
    dtype = np.dtype(DTYPES[body[0]]).newbyteorder("<")
    start = 2 + 4 * axes
    if math.prod(shape) * dtype.itemsize != len(body) - start:
        raise BadMessage(f"an array of shape {shape} and dtype {dtype.name} does not take {len(body) - start} bytes.")
    if dtype == np.bool_ and body[start:].translate(None, b"\0\1"):
        raise BadMessage("an array of truth values holds other bytes than 0 and 1.")
    return np.frombuffer(body, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="), copy=True)


# ---- the walk over bytes that are not trusted yet

# first byte -> (kind, bytes of the length field or of the value); kinds: value, fixed ext, text and ext (a length follows), list, map
_HEADS: dict[int, tuple[str, int]] = {
    0xC0: ("value", 0), 0xC2: ("value", 0), 0xC3: ("value", 0),
    0xC4: ("text", 1), 0xC5: ("text", 2), 0xC6: ("text", 4),
    0xC7: ("ext", 1), 0xC8: ("ext", 2), 0xC9: ("ext", 4),
    0xCA: ("value", 4), 0xCB: ("value", 8),
    0xCC: ("value", 1), 0xCD: ("value", 2), 0xCE: ("value", 4), 0xCF: ("value", 8),
    0xD0: ("value", 1), 0xD1: ("value", 2), 0xD2: ("value", 4), 0xD3: ("value", 8),
    0xD4: ("fixed ext", 2), 0xD5: ("fixed ext", 3), 0xD6: ("fixed ext", 5), 0xD7: ("fixed ext", 9), 0xD8: ("fixed ext", 17),
    0xD9: ("text", 1), 0xDA: ("text", 2), 0xDB: ("text", 4),
    0xDC: ("list", 2), 0xDD: ("list", 4), 0xDE: ("map", 2), 0xDF: ("map", 4),
}  # fmt: skip


def check(data: bytes | memoryview, *, max_values: int = MAX_VALUES, max_depth: int = MAX_DEPTH) -> None:
    """Walk over one message without building anything; the cost is its number of values, not its size.

    Raises:
        BadMessage: see `unpack`.
    """
    size, at, values = len(data), 0, 0
    if size > MAX_BYTES:
        raise BadMessage(f"a message of {size} bytes; allowed are {MAX_BYTES}.")
    open_lists = [1]  # values still to come, per level
    while open_lists:
        if open_lists[-1] == 0:
            open_lists.pop()
            continue
        open_lists[-1] -= 1
        values += 1
        if values > max_values:
            raise BadMessage(f"a message of more than {max_values} values.")
        if at >= size:
            raise BadMessage(f"a message is cut off after {size} bytes.")
        first = data[at]
        at += 1
        children = 0
        if first <= 0x7F or first >= 0xE0:
            kind, field = "value", 0
        elif first <= 0x8F:
            kind, field, children = "map", 0, first & 0x0F
        elif first <= 0x9F:
            kind, field, children = "list", 0, first & 0x0F
        elif first <= 0xBF:
            kind, field = "value", first & 0x1F
        elif first in _HEADS:
            kind, field = _HEADS[first]
        else:
            raise BadMessage(f"byte 0x{first:02x} begins no value.")
        if at + field > size:
            raise BadMessage(f"a message is cut off after {size} bytes.")
        if kind in ("ext", "fixed ext"):
            code = data[at + field : at + field + 1] if kind == "ext" else data[at : at + 1]
            if code and code[0] != ARRAY:  # those of msgpack itself (times) are negative
                raise BadMessage(f"extension type {code[0]} is unknown; allowed is {ARRAY}, an array.")
        if kind in ("text", "ext"):
            at += field + int.from_bytes(data[at : at + field], "big") + (kind == "ext")
        elif kind in ("value", "fixed ext"):
            at += field
        else:
            if field:
                children = int.from_bytes(data[at : at + field], "big")
            at += field
            children *= 2 if kind == "map" else 1
            if len(open_lists) > max_depth:
                raise BadMessage(f"a message is nested deeper than {max_depth} levels.")
            if values + children > max_values:
                raise BadMessage(f"a message of more than {max_values} values.")
            open_lists.append(children)
        if at > size:
            raise BadMessage(f"a length in a message reaches beyond its {size} bytes.")
    if at != size:
        raise BadMessage(f"a message of {at} bytes is followed by {size - at} others.")
