"""Messages between processes: a JSON header and raw arrays, so that reading one can run nothing.

    4 bytes: length of the header | header: {"kind": ..., fields} | arrays, one after the other

An array stands in the header as {"array": [dtype, shape]}; its bytes follow in the order of the header.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from policies.errors import BadArtifact, BadInput

_ARRAY = "array"
_KINDS = "biuf"


def pack(kind: str, fields: Mapping[str, Any]) -> bytes:
    """One message.

    Args:
        kind: what it is.
        fields: name -> array, number, string, None, or lists and mappings of them.
    Raises:
        BadInput: something that JSON has no word for.
    """
    buffers: list[bytes] = []

    def plain(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            if value.dtype.kind not in _KINDS:
                raise BadInput(f"wire: arrays of {value.dtype} cannot be sent; allowed are bool, integers and floats.")
            buffers.append(np.ascontiguousarray(value).tobytes())
            return {_ARRAY: [value.dtype.str, list(value.shape)]}
        if isinstance(value, np.generic):
            return value.item()
        if isinstance(value, Mapping):
            return {str(name): plain(entry) for name, entry in value.items()}
        if isinstance(value, list | tuple):
            return [plain(entry) for entry in value]
        if value is None or isinstance(value, str | int | float | bool):
            return value
        raise BadInput(
            f"wire: {type(value).__name__} cannot be sent; allowed: arrays, numbers, text, lists and mappings."
        )

    header = json.dumps({"kind": kind, "fields": plain(fields)}).encode()
    return b"".join([struct.pack("<I", len(header)), header, *buffers])


def unpack(message: bytes) -> tuple[str, dict[str, Any]]:
    """(kind, fields) of a message; arrays are copies.

    Raises:
        BadArtifact: it is cut off, too long, or not such a message.
    """
    place = 0

    def full(value: Any) -> Any:
        nonlocal place
        if isinstance(value, dict):
            if set(value) == {_ARRAY}:
                dtype, shape = np.dtype(value[_ARRAY][0]), tuple(int(n) for n in value[_ARRAY][1])
                if dtype.kind not in _KINDS or any(n < 0 for n in shape):
                    raise ValueError(f"array of {dtype}, {shape}")
                size = math.prod(shape) * dtype.itemsize
                if place + size > len(body):
                    raise ValueError("cut off")
                found = np.frombuffer(body[place : place + size], dtype).reshape(shape).copy()
                place += size
                return found
            return {name: full(entry) for name, entry in value.items()}
        return [full(entry) for entry in value] if isinstance(value, list) else value

    try:
        (length,) = struct.unpack_from("<I", message)
        header = json.loads(message[4 : 4 + length])
        body = memoryview(message)[4 + length :]
        kind, fields = str(header["kind"]), full(header["fields"])
        if place != len(body) or not isinstance(fields, dict):
            raise ValueError("bytes left over")
    except (struct.error, ValueError, KeyError, TypeError, IndexError) as error:
        raise BadArtifact(f"wire: {len(message)} bytes that are no message of ours ({error}).") from None
    return kind, fields
