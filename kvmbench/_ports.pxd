# The port check, for `cimport`; docs/model.md, section 3.
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t

cdef enum:
    KB_PORTS = 65536
    KB_MAP_BYTES = 8192           # a bit for each port
    KB_TSS_MAP_BYTES = 8193       # and the terminator

cdef inline bint kb_port_check(uint32_t tr_limit, uint16_t io_base, const uint8_t* tss_map,
                               uint32_t port, uint32_t width) noexcept nogil:
    """The port check: SDM Vol. 1, "I/O permission bit map"; two bytes are always read."""
    cdef uint32_t byte = port >> 3
    cdef uint32_t word = tss_map[byte] | <uint32_t>tss_map[byte + 1] << 8
    cdef uint32_t bits = ((<uint32_t>1 << width) - 1) << (port & 7)
    return (io_base + byte + 1 <= tr_limit) & ((word & bits) == 0)

# kb_port_check of each; returns 0, `allowed` then undefined, where a width is not 1, 2 or 4.
cdef bint kb_port_checks(uint32_t tr_limit, uint16_t io_base, const uint8_t* tss_map,
                         const uint16_t* ports, const uint8_t* widths, uint8_t* allowed,
                         int64_t n) noexcept nogil
# The same for contiguous arrays of one shape, all allowed with `iopl3`; returns bool of that
# shape, without the GIL.
cdef object checked(uint32_t tr_limit, uint16_t io_base, const uint8_t* tss_map, ports, widths,
                    bint iopl3)
