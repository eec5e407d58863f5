# Philox4x64-10, a counter-based random number generator, for _host.
from libc.stdint cimport uint64_t

cdef extern from *:
    """
    #define PHILOX_M0 UINT64_C(0xD2E7470EE14C6C93)
    #define PHILOX_M1 UINT64_C(0xCA5A826395121157)
    #define GOLDEN UINT64_C(0x9E3779B97F4A7C15)      /* 2**64 over the golden ratio */
    #define ROOT3 UINT64_C(0xBB67AE8584CAA73B)       /* 2**64 * (sqrt(3) - 1) */
    """
    ctypedef unsigned long long uint128_t "unsigned __int128"
    const uint64_t PHILOX_M0, PHILOX_M1, GOLDEN, ROOT3

cdef inline void philox_block(const uint64_t* counter, uint64_t k0, uint64_t k1,
                              uint64_t* out) noexcept nogil:
    """Philox4x64-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3")."""
    cdef uint64_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3]
    cdef uint128_t p, q
    cdef int _i
    for _i in range(10):
        p = <uint128_t>PHILOX_M0 * c0
        q = <uint128_t>PHILOX_M1 * c2
        c0 = <uint64_t>(q >> 64) ^ c1 ^ k0
        c1 = <uint64_t>q
        c2 = <uint64_t>(p >> 64) ^ c3 ^ k1
        c3 = <uint64_t>p
        k0 += GOLDEN
        k1 += ROOT3
    out[0] = c0
    out[1] = c1
    out[2] = c2
    out[3] = c3
