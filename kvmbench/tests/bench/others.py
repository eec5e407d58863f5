"""Other ways to the same answers, as somebody without kvmbench would write them."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray


@numba.njit
def _numba_loop(
    last: int,
    tss_map: NDArray[np.uint8],
    ports: NDArray[np.uint16],
    widths: NDArray[np.uint8],
    out: NDArray[np.bool_],
) -> None:
    for i in range(len(ports)):
        byte = ports[i] >> 3
        word = np.uint32(tss_map[byte]) | np.uint32(tss_map[byte + 1]) << np.uint32(8)
        bits = ((np.uint32(1) << widths[i]) - np.uint32(1)) << np.uint32(ports[i] & 7)
        out[i] = byte <= last and (word & bits) == 0


def numba_check(
    limit: int, base: int, tss_map: NDArray[Any], ports: NDArray[Any], widths: NDArray[Any]
) -> NDArray[np.bool_]:
    out = np.empty(ports.shape, np.bool_)
    _numba_loop(limit - base - 1, tss_map, ports, widths, out)
    return out


def numpy_check(
    limit: int, base: int, tss_map: NDArray[Any], ports: NDArray[Any], widths: NDArray[Any]
) -> NDArray[np.bool_]:
    words = tss_map[:-1] | tss_map[1:].astype(np.uint16) << 8
    byte = ports >> 3
    bits = ((1 << widths.astype(np.uint16)) - 1) << (ports & 7)
    return (byte <= limit - base - 1) & (words[byte] & bits == 0)


def _allowed(limit: int, base: int, tss_map: NDArray[Any]) -> dict[int, NDArray[np.bool_]]:
    ports = np.arange(65536, dtype=np.uint16)
    return {
        width: numpy_check(limit, base, tss_map, ports, np.full(65536, width, np.uint8))
        for width in (1, 2, 4)
    }


def bitarray_check(
    limit: int, base: int, tss_map: NDArray[Any], ports: NDArray[Any], widths: NDArray[Any]
) -> NDArray[np.bool_]:
    from bitarray import bitarray

    out = np.empty(ports.shape, np.bool_)
    for width, allowed in _allowed(limit, base, tss_map).items():
        bits = bitarray(allowed.tolist())
        here = widths == width
        chosen = bits[ports[here].tolist()]
        out[here] = np.frombuffer(chosen.unpack(), np.bool_)
    return out


def pyroaring_check(
    limit: int, base: int, tss_map: NDArray[Any], ports: NDArray[Any], widths: NDArray[Any]
) -> NDArray[np.bool_]:
    from pyroaring import BitMap

    sets = {
        width: BitMap(np.flatnonzero(allowed).astype(np.uint32))
        for width, allowed in _allowed(limit, base, tss_map).items()
    }
    pairs = zip(ports.tolist(), widths.tolist(), strict=True)
    return np.fromiter((port in sets[width] for port, width in pairs), np.bool_, len(ports))
