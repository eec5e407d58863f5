# Events of a recording in C, for the reader and the history. events.py says what they mean.

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t

cdef enum:                        # events.Kind
    ENTRY = 0
    EXIT = 1
    USER = 2
    PIO = 3
    MMIO = 4
    MSR = 5
    CPUID = 6
    HYPERCALL = 7
    FPU = 8
    NESTED_EXIT = 9
    NESTED = 10
    SWITCH = 11
    IOPERM = 12
    IOPERM_END = 13
    LOST = 14

cdef struct Event:                # events.EVENT_DTYPE
    int64_t time
    int64_t a
    int64_t b
    int32_t pid
    int32_t cpu
    int32_t vcpu
    uint16_t comm
    uint16_t reason
    uint8_t kind
    uint8_t flag
    uint16_t more
    uint32_t end
