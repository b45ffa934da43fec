"""The squared-envelope spectrum of a carrier band, at its low frequencies only.

The squared envelope of a band is the squared magnitude of its analytic signal. By the convolution theorem its spectrum
is the autocorrelation of the band's bins, ``E[k] = sum_m conj(S[m]) S[m + k]``. Diagnostics needs only a few low lags
``k``. These are a small matrix product, which is cheaper than two more Fourier transforms; for many lags the transforms
are cheaper and are used instead. Both give the same values (Randall and Antoni, "Rolling element bearing diagnostics -
a tutorial", MSSP 25 (2011) 485-520, section 5).

Invariants:
    * Everything is float32 or complex64.
    * Threads may share an instance: each has its own buffers. They are kept, since allocating them for each window
      costs more in page faults than the product itself.
"""

from __future__ import annotations

from threading import local
from typing import Final

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import as_strided

__all__ = ["EnvelopeSpectrum"]

_BLOCK: Final = 16
"""Bins in one row of the matrix product."""
_SINGLE_THREAD: Final = 60_000
"""Products in one call up to which OpenBLAS stays in the caller's thread: waking others costs more than it saves."""
_PRODUCTS_PER_POINT: Final = 140
"""Complex products of a matrix product that take as long as one point of the two transforms (measured on x86-64)."""

Array = npt.NDArray[np.float32]
Spectrum = npt.NDArray[np.complex64]


class EnvelopeSpectrum:
    """The first lines of the squared-envelope spectrum of one carrier band.

    Args:
        carrier: the band's bins in the signal's spectrum.
        lines: number of lines that are needed, with line 0 (the mean). Lines are as far apart as bins.
    """

    def __init__(self, carrier: slice, lines: int) -> None:
        self.carrier = carrier
        width = carrier.stop - carrier.start
        self._width = width
        self._lines = min(lines, width)
        self._asked = lines
        # The correlation has lags from -(width - 1) to width - 1. With this many points, the lags that wrap around do
        # not reach the lines that are needed.
        self._points = 1 << (width + self._lines - 1).bit_length()
        self._by_product = width * (_BLOCK + self._lines) < _PRODUCTS_PER_POINT * self._points
        self._scratch = local()

    def power(self, spectrum: Spectrum) -> Array | None:
        """Powers of the lines' real and imaginary parts, interleaved, relative to the squared mean of the envelope.

        Args:
            spectrum: [bin] complex64, the FFT of one window.

        Returns:
            [2 * line] float32: line ``k`` has the power ``result[2 * k] + result[2 * k + 1]``; line 0 has 1. None where
            the carrier band is empty (has no power).
        """
        band = spectrum[self.carrier]
        lines = self._product(band) if self._by_product else self._transform(band)
        mean = float(lines[0].real)
        if not mean > 0.0:
            return None if mean == 0.0 else np.full(2 * self._asked, np.nan, dtype=np.float32)
        parts = lines.view(np.float32) * np.float32(1.0 / mean)
        if self._asked == self._lines:
            return np.asarray(parts * parts, dtype=np.float32)
        result = np.zeros(2 * self._asked, dtype=np.float32)
        result[: parts.size] = parts * parts
        return result

    def _product(self, band: Spectrum) -> Spectrum:
        scratch = self._scratch
        if not hasattr(scratch, "buffers"):
            scratch.buffers = _Buffers(self._width, self._lines)
        buffers: _Buffers = scratch.buffers
        buffers.band[:] = band
        np.copyto(buffers.shifted, buffers.windows)
        np.conjugate(buffers.rows, out=buffers.own)
        np.matmul(buffers.own_by_part, buffers.shifted_by_part, out=buffers.products)
        return np.asarray(np.add.reduce(buffers.diagonals, axis=(0, 1)), dtype=np.complex64)

    def _transform(self, band: Spectrum) -> Spectrum:
        analytic = np.fft.ifft(band, n=self._points)
        parts = analytic.astype(np.complex64, copy=False).view(np.float32)
        parts *= parts
        squared = parts[::2] + parts[1::2]
        lines = np.fft.rfft(squared)[: self._lines].astype(np.complex64, copy=False)
        lines *= np.float32(self._points)
        return lines


class _Buffers:
    """One thread's arrays for the matrix product. Some are views of others, which saves copies."""

    def __init__(self, width: int, lines: int) -> None:
        columns = _BLOCK + lines - 1
        rows = -(-width // _BLOCK)
        parts = min(rows, -(-rows * _BLOCK * columns // _SINGLE_THREAD))
        rows = parts * -(-rows // parts)
        padded = np.zeros(rows * _BLOCK + columns, dtype=np.complex64)
        one = padded.itemsize
        self.band = padded[:width]
        self.rows = padded[: rows * _BLOCK].reshape(rows, _BLOCK)
        self.windows = as_strided(padded, (rows, columns), (_BLOCK * one, one))
        self.shifted = np.empty((rows, columns), dtype=np.complex64)
        self.own = np.empty((rows, _BLOCK), dtype=np.complex64)
        self.own_by_part = self.own.reshape(parts, -1, _BLOCK).transpose(0, 2, 1)
        self.shifted_by_part = self.shifted.reshape(parts, -1, columns)
        self.products = np.empty((parts, _BLOCK, columns), dtype=np.complex64)
        # products[p, m, m + k] belongs to lag k: its diagonals are the columns here.
        steps = (_BLOCK * columns * one, (columns + 1) * one, one)
        self.diagonals = as_strided(self.products, (parts, _BLOCK, lines), steps)
