"""Values survive the way through bytes, and hostile bytes end in one kind of error."""

from __future__ import annotations

import struct

import hypothesis.extra.numpy as arrays
import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch.packing import ARRAY, DTYPES, BadMessage, check, pack, unpack
from policies.errors import BadInput

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=40)
    | st.binary(max_size=300),
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(max_size=5), inner, max_size=20),
    max_leaves=30,
)


@given(plain)
def test_plain_values_come_back_as_they_were(value: object) -> None:
    assert unpack(pack(value), max_depth=50) == value


@given(
    st.sampled_from(DTYPES).flatmap(
        lambda name: arrays.arrays(name, arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
    )
)
def test_arrays_come_back_bit_for_bit_and_writable(array: np.ndarray) -> None:
    back = unpack(pack({"a": [array]}))["a"][0]
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert back.tobytes() == array.tobytes()
    assert back.flags.writeable


def test_byte_order_and_strides_do_not_matter() -> None:
    array = np.arange(12, dtype=">i4").reshape(3, 4).T[::2]
    back = unpack(pack(array))
    assert back.dtype == np.dtype("int32")
    np.testing.assert_array_equal(back, array)


@pytest.mark.parametrize(
    "value", [object(), {1, 2}, np.array(["text"]), np.array([None]), np.array([1j]), print, 2**70]
)
def test_what_has_no_form_is_refused(value: object) -> None:
    with pytest.raises(BadInput, match="cannot be packed"):
        pack(value)


def array_bytes(code: int, shape: tuple[int, ...], data: bytes) -> bytes:
    return msgpack.packb(msgpack.ExtType(ARRAY, struct.pack(f"<BB{len(shape)}I", code, len(shape), *shape) + data))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "cut off"),
        (b"\xc1", "begins no value"),
        (b"\x91", "cut off"),
        (b"\x01\x01", "followed by"),
        (b"\xc6\xff\xff\xff\xff", "beyond"),
        (b"\xdd\xff\xff\xff\xff", "more than 4096 values"),
        (b"\xdf\xff\xff\xff\xff", "more than 4096 values"),
        (b"\xdc\x0f\xff" + b"\x90" * 4095 + b"\x90", "more than 4096|followed by"),
        (b"\x91" * 2000 + b"\xc0", "deeper"),
        (b"\x81" * 5, "cut off|deeper"),
        (b"\x81\x01\x02", "no message"),  # a key that is no text
        (b"\xa2\xff\xff", "no message"),  # no UTF-8
        (b"\xd4\x05\x00", "extension type 5"),
        (b"\xd6\xff\x00\x00\x00\x00", "no form|extension|no message|Timestamp"),
        (array_bytes(99, (1,), b"\0"), "head is broken"),
        (array_bytes(1, (2**32 - 1,) * 4, b"\0"), "does not take"),
        (array_bytes(10, (2,), b"\0" * 7), "does not take"),
        (array_bytes(0, (2,), b"\0\2"), "truth values"),
        (msgpack.packb(msgpack.ExtType(ARRAY, b"\x01\x09" + b"\0" * 40)), "head is broken"),
    ],
)
def test_hostile_bytes_are_refused_with_the_reason(data: bytes, reason: str) -> None:
    with pytest.raises(BadMessage, match=reason):
        unpack(data)


@given(st.binary(max_size=200))
def test_any_bytes_give_a_value_or_the_one_error(data: bytes) -> None:
    try:
        value = unpack(data)
    except BadMessage:
        return
    assert msgpack.packb(value, default=lambda a: msgpack.ExtType(ARRAY, b""), strict_types=False) is not None


@given(plain, st.data())
def test_the_walk_agrees_with_the_library_about_where_a_message_ends(value: object, data: st.DataObject) -> None:
    packed = msgpack.packb(value)
    check(packed, max_values=10**6, max_depth=100)
    if len(packed) > 1:
        with pytest.raises(BadMessage):
            check(packed[: data.draw(st.integers(0, len(packed) - 1))], max_values=10**6, max_depth=100)
