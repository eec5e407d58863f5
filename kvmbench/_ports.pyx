"""The port check: one access, many of them in vector instructions, and NumPy arrays of them.

`kvmbench.port_check` is public; `Machine` checks its own CPUs' ports with it.
"""
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t

import numpy as np

from kvmbench.arrays import integer, integers, pairs, wrong_width

__all__ = ["port_check"]

cdef enum:
    CHECKS_MANY = 1 << 15         # port checks from which on a table of all answers pays
    CHECKS_BLOCK = 2048           # port checks whose arrays fit the first cache


def port_check(tr_limit, io_base, tss_map, ports, widths, iopl=0):
    """Say which accesses of a task in user mode the hardware allows.

    Parameters: `tr_limit` (bytes, 0 to 2**32 - 1) and `io_base` (bytes, 0 to 65535); `tss_map`,
    uint8 (8193,), a set bit denies; `ports`, 0 to 65535, and `widths`, each 1, 2 or 4 bytes:
    uint16 and uint8 arrays that broadcast to one shape; `iopl`, EFLAGS.IOPL, 0 to 3: at 3 the
    hardware looks at no bitmap and allows all. Returns bool, of that shape.

    Source: SDM Vol. 1, "I/O permission bit map". Two bytes are always read, so the second must be
    inside the limit too. Raises TypeError or ValueError, naming the argument.
    """
    cdef uint32_t limit = integer("tr_limit", tr_limit, 0, 0xffffffff)
    cdef uint16_t base = integer("io_base", io_base, 0, 0xffff)
    tss_map = np.ascontiguousarray(integers("tss_map", tss_map, np.uint8))
    if tss_map.shape != (KB_TSS_MAP_BYTES,):
        raise ValueError(f"tss_map has shape {tss_map.shape}, not ({KB_TSS_MAP_BYTES},)")
    cdef const uint8_t[::1] map = tss_map
    ports, widths = pairs(ports, widths)
    return checked(limit, base, &map[0], ports, widths, integer("iopl", iopl, 0, 3) == 3)


cdef object checked(uint32_t tr_limit, uint16_t io_base, const uint8_t* tss_map, ports, widths,
                    bint iopl3):
    allowed = np.empty(ports.shape, np.bool_)
    cdef const uint16_t[::1] p = ports.reshape(-1)
    cdef const uint8_t[::1] w = widths.reshape(-1)
    cdef uint8_t[::1] out = allowed.reshape(-1).view(np.uint8)
    cdef int64_t n = p.shape[0]
    cdef bint widths_good = True
    if n:
        with nogil:
            widths_good = kb_port_checks(tr_limit, io_base, tss_map, &p[0], &w[0], &out[0], n)
    if not widths_good:
        raise wrong_width(widths)
    if iopl3:
        allowed[...] = True
    return allowed


cdef bint kb_port_checks(uint32_t tr_limit, uint16_t io_base, const uint8_t* tss_map,
                         const uint16_t* ports, const uint8_t* widths, uint8_t* allowed,
                         int64_t n) noexcept nogil:
    # Bit 0, 1 and 2 of a port's answer say that 1, 2 and 4 bytes may be accessed there: the width
    # itself is the mask. Block by block, so that the look-ups, which no vector instruction does,
    # are apart from what becomes vector instructions, and all of it stays in the first cache.
    cdef uint8_t* answers = NULL
    cdef uint32_t port
    cdef int64_t at = 0, part
    cdef bint good = True
    if n >= CHECKS_MANY:
        answers = <uint8_t*>PyMem_RawMalloc(KB_PORTS)
    if answers != NULL:
        for port in range(<uint32_t>KB_PORTS):
            answers[port] = (kb_port_check(tr_limit, io_base, tss_map, port, 1)
                             | kb_port_check(tr_limit, io_base, tss_map, port, 2) << 1
                             | kb_port_check(tr_limit, io_base, tss_map, port, 4) << 2)
    while good and at < n:
        part = min(n - at, <int64_t>CHECKS_BLOCK)
        good = _all_widths(&widths[at], part)
        if good and answers != NULL:
            _look_up(answers, &ports[at], &widths[at], &allowed[at], part)
        elif good:
            _check(tr_limit, io_base, tss_map, &ports[at], &widths[at], &allowed[at], part)
        at += part
    if answers != NULL:
        PyMem_RawFree(answers)
    return good


cdef bint _all_widths(const uint8_t* widths, int64_t n) noexcept nogil:
    cdef uint8_t odd = 0
    cdef int64_t i
    for i in range(n):
        odd |= (widths[i] != 1) & (widths[i] != 2) & (widths[i] != 4)
    return not odd


cdef void _check(uint32_t tr_limit, uint16_t io_base, const uint8_t* tss_map,
                 const uint16_t* ports, const uint8_t* widths, uint8_t* allowed,
                 int64_t n) noexcept nogil:
    cdef int64_t i
    for i in range(n):
        allowed[i] = kb_port_check(tr_limit, io_base, tss_map, ports[i], widths[i])


cdef void _look_up(const uint8_t* answers, const uint16_t* ports, const uint8_t* widths,
                   uint8_t* allowed, int64_t n) noexcept nogil:
    # Four loads, then four stores: a store could change `answers`, for all the compiler knows.
    cdef uint8_t a, b, c, d
    cdef int64_t i = 0
    while i + 4 <= n:
        a = answers[ports[i]]
        b = answers[ports[i + 1]]
        c = answers[ports[i + 2]]
        d = answers[ports[i + 3]]
        allowed[i] = a
        allowed[i + 1] = b
        allowed[i + 2] = c
        allowed[i + 3] = d
        i += 4
    while i < n:
        allowed[i] = answers[ports[i]]
        i += 1
    for i in range(n):
        allowed[i] = (allowed[i] & widths[i]) != 0
