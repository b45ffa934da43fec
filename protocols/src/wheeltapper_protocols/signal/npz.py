"""Arrays as an ``.npz`` file of a fixed layout: equal arrays are equal bytes.

Recordings and golden vectors are named by the SHA-256 of their file. Their bytes therefore depend on nothing but the
arrays: not on the version of Python (``zipfile`` changed its zip64 header in a patch release), of zlib (zlib-ng
deflates into other bytes) or of numpy (which changed the padding of an array's header), nor on the machine's byte
order or clock.

The layout: members in the order given, stored and not compressed, their size and CRC before the content, no zip64, no
extra fields, the time 1980-01-01 00:00, mode 0644. Each member is an array of the .npy format 1.0, little-endian, in
Fortran order where it lies so in memory and else in C order, as numpy writes it.

Source: PKWARE APPNOTE 6.3.10, clauses 4.3.7, 4.3.12 and 4.3.16; numpy's NEP 1.

Example:
    >>> target = io.BytesIO()
    >>> write_npz({"t_s": np.zeros(3)}, target)
    >>> np.load(io.BytesIO(target.getvalue()))["t_s"]
    array([0., 0., 0.])

What this module does not do: read (numpy and ``zipfile`` do).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, Final, Literal

import numpy as np
import numpy.typing as npt

__all__ = ["write_npz"]

_PIECE_BYTES: Final = 1024 * 1024
_MAX_FILE_BYTES: Final = 2**32 - 1
"""Beyond it a zip file needs zip64."""
_VERSION: Final = 20
_MADE_ON_UNIX: Final = 3 << 8 | _VERSION
_DATE: Final = 1 << 5 | 1
_MODE: Final = 0o100644 << 16
_LOCAL: Final = struct.Struct("<4s5H3I2H")
_CENTRAL: Final = struct.Struct("<4s6H3I5H2I")
_END: Final = struct.Struct("<4s4H2IH")
_NPY_ALIGNMENT: Final = 64
_NPY_GROWTH: Final = 21
"""Room that numpy leaves in a header, so that the slowest dimension can grow in place."""


def write_npz(arrays: Mapping[str, npt.NDArray[Any]], target: BinaryIO) -> None:
    """Write arrays as an ``.npz`` file. Equal arrays give equal bytes.

    Memory: copies of 1 MB, and one of an array that is not little-endian and contiguous already.

    Args:
        arrays: by name; numbers, booleans or texts of any shape.
        target: where the file is written to, from its present position on; it need not be seekable.

    Raises:
        ValueError: an array holds Python objects, or the file would have 4 GiB or more.
    """
    directory, written = b"", 0
    for name, array in arrays.items():
        plain = _plain(array)
        header = _npy_header(plain)
        size = len(header) + plain.nbytes
        if written + size > _MAX_FILE_BYTES - 2**16:
            raise ValueError(f"{name} makes the file larger than 4 GiB: split it")
        crc = zlib.crc32(header)
        for piece in _pieces(plain):
            crc = zlib.crc32(piece, crc)
        file_name = f"{name}.npy".encode()
        about = (_VERSION, 0, 0, 0, _DATE, crc, size, size, len(file_name), 0)
        local = _LOCAL.pack(b"PK\x03\x04", *about) + file_name
        directory += _CENTRAL.pack(b"PK\x01\x02", _MADE_ON_UNIX, *about, 0, 0, 0, _MODE, written) + file_name
        target.write(local + header)
        for piece in _pieces(plain):
            target.write(piece)
        written += len(local) + size
    count = len(arrays)
    target.write(directory)
    target.write(_END.pack(b"PK\x05\x06", 0, 0, count, count, len(directory), written, 0))


def _plain(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """``array`` little-endian and contiguous; itself where it is that already."""
    if array.dtype.hasobject or array.dtype.names is not None:
        raise ValueError(f"arrays of {array.dtype} are not written: use numbers or texts")
    order: Literal["F", "C"] = "F" if _is_fortran(array) else "C"
    return np.asarray(array, dtype=array.dtype.newbyteorder("<"), order=order)


def _is_fortran(array: npt.NDArray[Any]) -> bool:
    return array.flags.f_contiguous and not array.flags.c_contiguous


def _npy_header(array: npt.NDArray[Any]) -> bytes:
    """The header of the .npy format 1.0, padded as numpy pads it today."""
    fortran = _is_fortran(array)
    text = f"{{'descr': {array.dtype.str!r}, 'fortran_order': {fortran}, 'shape': {array.shape!r}, }}"
    if array.ndim:
        text += " " * (_NPY_GROWTH - len(repr(array.shape[-1 if fortran else 0])))
    before = len(b"\x93NUMPY\x01\x00") + 2
    text += " " * (-(before + len(text) + 1) % _NPY_ALIGNMENT) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode("latin1")


def _pieces(array: npt.NDArray[Any]) -> Iterator[bytes | memoryview]:
    """The bytes of a contiguous array as they lie in memory, in pieces of 1 MB."""
    if array.nbytes <= _PIECE_BYTES:
        yield array.tobytes(order="A")
        return
    content = array.reshape(-1, order="A").view(np.uint8)
    for begin in range(0, len(content), _PIECE_BYTES):
        yield content[begin : begin + _PIECE_BYTES].data
