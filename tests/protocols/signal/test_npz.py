"""The bytes of an .npz file: the same on every machine, and read by everybody."""

from __future__ import annotations

import hashlib
import io
import zipfile
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_st

from wheeltapper_protocols.signal.npz import write_npz


def packed(**arrays: Any) -> bytes:
    target = io.BytesIO()
    write_npz(arrays, target)
    return target.getvalue()


def test_the_bytes_are_pinned() -> None:
    """What a member looks like, byte by byte; a hash for the shapes and types that recordings and goldens have."""
    small = packed(a=np.array([1, 2], np.int16))
    assert (
        small[:14].hex(" ") == "50 4b 03 04 14 00 00 00 00 00 00 00 21 00"
    )  # version 2.0, no flags, stored, 1980-01-01
    assert (
        small[18:39] == bytes.fromhex("84000000 84000000 0500 0000") + b"a.npy" + b"\x93NUM"
    )  # 132 bytes: 128 and 2 numbers
    many = packed(
        samples=np.arange(-600_000, 600_000, dtype=np.float32).reshape(300, 2000, 2),
        scale=np.array([0.5, 0.25]),
        rate=np.array(1000.0),
        channels=np.array(["x", "Ölpumpe"]),
        flags=np.array([[True], [False]]),
    )
    assert hashlib.sha256(many).hexdigest() == "727fcee3ab410acdd94fb1e37518b91b110a07eb9ae06dea31cbfde0fbf5020a"


ARRAYS = numpy_st.arrays(
    st.sampled_from([np.dtype(kind) for kind in ("<i2", ">i2", "<f4", ">f8", "u1", "?", "<U3", ">U3")]),
    numpy_st.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
)


@given(st.dictionaries(st.sampled_from(["samples", "t_s", "x"]), ARRAYS, max_size=3))
@settings(max_examples=200, deadline=None)
def test_everybody_reads_it(arrays: dict[str, Any]) -> None:
    content = packed(**arrays)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.testzip() is None
        assert {info.compress_type for info in archive.infolist()} <= {zipfile.ZIP_STORED}
    with np.load(io.BytesIO(content), allow_pickle=False) as loaded:
        assert loaded.files == list(arrays)
        for name, array in arrays.items():
            assert loaded[name].shape == array.shape
            np.testing.assert_array_equal(loaded[name], array)


@given(ARRAYS)
@settings(max_examples=100, deadline=None)
def test_equal_arrays_are_equal_bytes_in_either_byte_order(array: Any) -> None:
    swapped = array.astype(array.dtype.newbyteorder(">"))
    spread = np.repeat(array, 2, axis=0)[::2] if array.ndim else array
    assert packed(x=array) == packed(x=swapped) == packed(x=spread)


def test_objects_are_refused_before_anything_of_them_is_written() -> None:
    for array in (np.array([{}], dtype=object), np.zeros(2, dtype=[("a", "i2")])):
        target = io.BytesIO()
        with pytest.raises(ValueError, match="numbers or texts"):
            write_npz({"x": array}, target)
        assert target.getvalue() == b""
