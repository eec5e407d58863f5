from libc.stdint cimport int64_t, uint8_t, uint64_t

from kvmbench._steps cimport KbMachine

cdef zeroed(size_t size, void** at)

cdef class Machine:
    cdef KbMachine m              # borrows the arrays in _owned
    cdef readonly object policy
    cdef readonly object profile
    cdef readonly str vendor
    cdef bint running             # inside a call that released the GIL
    cdef tuple _owned             # (name, array); of a dict the collector may free the arrays first
    cdef dict _kind_index         # name of an exit kind -> index
    cdef void* _array(self, str name, Py_ssize_t n, size_t itemsize) except NULL
    cdef _compile_policy(self)
    cdef _start(self)
    cdef int _claim(self) except -1
    cdef _restore(self, dict state)
    cdef _task_map(self, int64_t task)
    cdef _counters(self)
    cdef int64_t _index(self, cpu) except -1
    cdef _kind(self, kind)
    cdef uint64_t _one(self, int code, cpu, a, b, arg, uint8_t* result) except? -1
    cdef _refused(self, int status, dict op, index)
