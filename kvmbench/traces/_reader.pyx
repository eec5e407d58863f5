"""The reader of lines: text of perf script, trace-cmd report and tracefs becomes events.

recording.py feeds it; docs/trace.md describes the layouts. No line makes it fail: a line that it
does not understand is counted by its kind.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Realloc
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memchr, memcmp, memcpy, memset, strlen

from kvmbench.traces._events cimport (
    CPUID, ENTRY, EXIT, FPU, HYPERCALL, IOPERM, IOPERM_END, LOST, MMIO, MSR, NESTED, NESTED_EXIT,
    PIO, SWITCH, USER, Event,
)

import numpy as np

from kvmbench.traces.events import EVENT_DTYPE, FIRST_NAMES

__all__ = ["Reader"]

cdef enum:
    NAMES_MAX = 60000             # names kept; later ones are all OTHER
    OTHER = 1
    NAME_MAX = 64                 # bytes of a name that are kept
    KINDS_MAX = 1000              # kinds of unread lines that are counted separately
    LINE_MAX = 1 << 16            # bytes; a longer line is skipped
    SLOTS = 4096                  # of the cache of names

cdef struct Slot:
    uint16_t id                   # 0: empty
    uint8_t size
    char text[NAME_MAX]


cdef inline bint is_digit(char c) noexcept:
    return 48 <= c <= 57

cdef inline bint is_space(char c) noexcept:
    return c == 32 or c == 9

cdef inline bint is_word(char c) noexcept:
    return is_digit(c) or 97 <= c <= 122 or 65 <= c <= 90 or c == 95

cdef inline char back(const char* at) noexcept:
    """Return the character before a place: a negative index would be a warning."""
    return (at - 1)[0]

cdef inline const char* skip(const char* at, const char* end) noexcept:
    while at < end and is_space(at[0]):
        at += 1
    return at

cdef inline const char* rtrim(const char* start, const char* end) noexcept:
    while end > start and is_space(back(end)):
        end -= 1
    return end

cdef inline const char* token_end(const char* at, const char* end) noexcept:
    while at < end and not is_space(at[0]):
        at += 1
    return at

cdef const char* after(const char* at, const char* end, const char* word) noexcept:
    """Return the place after `word`, which no letter, digit or _ precedes; NULL if it is absent."""
    cdef size_t n = strlen(word)
    cdef const char* start = at
    while end - at >= <Py_ssize_t>n:
        at = <const char*>memchr(at, word[0], end - at - n + 1)
        if at == NULL:
            return NULL
        if memcmp(at, word, n) == 0 and (at == start or not is_word(back(at))):
            return at + n
        at += 1
    return NULL

cdef const char* decimal(const char* at, const char* end, int64_t* value) noexcept:
    """Read up to 18 digits; return the place after them, else `at`."""
    cdef const char* start = at
    value[0] = 0
    while at < end and is_digit(at[0]):
        if at - start == 18:
            return start
        value[0] = 10 * value[0] + (at[0] - 48)
        at += 1
    return at

cdef const char* hexadecimal(const char* at, const char* end, int64_t* value) noexcept:
    """Read a hexadecimal number with or without 0x; return the place after it, else `at`."""
    cdef const char* start = at
    cdef uint64_t found = 0
    cdef char c
    if end - at > 1 and at[0] == 48 and at[1] | 32 == 120:
        at += 2
    cdef const char* first = at
    while at < end:
        c = at[0]
        if is_digit(c):
            found = found << 4 | <uint64_t>(c - 48)
        elif 97 <= c | 32 <= 102:
            found = found << 4 | <uint64_t>((c | 32) - 87)
        else:
            break
        at += 1
    value[0] = <int64_t>found
    return start if at == first or at - first > 16 else at

cdef bint hex_after(const char* at, const char* end, const char* word, int64_t* value) noexcept:
    at = after(at, end, word)
    if at == NULL:
        return False
    at = skip(at, end)
    return hexadecimal(at, end, value) > at

cdef bint decimal_after(const char* at, const char* end, const char* word, int64_t* value) noexcept:
    at = after(at, end, word)
    return at != NULL and decimal(at, end, value) > at

cdef inline bint equals(const char* at, const char* end, const char* word) noexcept:
    return end - at == <Py_ssize_t>strlen(word) and memcmp(at, word, end - at) == 0


cdef const char* time_stamp(const char* at, const char* end, int64_t* ns) noexcept:
    """Find ` SECONDS.FRACTION:` and return its first digit; NULL where the line has none."""
    cdef const char* colon
    cdef const char* first
    cdef const char* dot
    cdef int64_t seconds, fraction
    cdef int digits
    cdef const char* start = at
    while at < end:
        colon = <const char*>memchr(at, 58, end - at)
        if colon == NULL:
            return NULL
        at = colon + 1
        if at < end and not is_space(at[0]):
            continue
        dot = colon
        while dot > start and is_digit(back(dot)):
            dot -= 1
        digits = <int>(colon - dot)
        if not 1 <= digits <= 9 or dot == start or back(dot) != 46:
            continue
        decimal(dot, colon, &fraction)
        first = dot - 1
        while first > start and is_digit(back(first)):
            first -= 1
        # Ten digits: 317 years, so that nanoseconds do not wrap.
        if not 1 <= dot - 1 - first <= 10 or (first > start and not is_space(back(first))):
            continue
        if dot - 1 - first == 10 and first[0] > 57 - 1:
            continue  # 9e9 s and more are no time since any boot or epoch
        decimal(first, dot - 1, &seconds)
        while digits < 9:
            fraction *= 10
            digits += 1
        ns[0] = seconds * 1000000000 + fraction
        return first
    return NULL


cdef class Reader:
    """Turns the bytes of a recording, fed in pieces, into events."""

    cdef readonly list names      # [index of a name] str; events.FIRST_NAMES come first
    cdef readonly dict unread     # kind of line -> how many were not read
    cdef readonly uint64_t lines
    cdef dict ids
    cdef bytes rest               # a line that is not complete yet
    cdef Event* events
    cdef Py_ssize_t n, room
    cdef Event held               # the header of a wrapped line
    cdef bint holds
    cdef bint skipping            # a line that is too long
    cdef Slot slots[SLOTS]

    def __cinit__(self):
        self.names = list(FIRST_NAMES)
        self.ids = {name.encode(): number for number, name in enumerate(FIRST_NAMES)}
        self.unread = {}
        self.rest = b""
        memset(self.slots, 0, sizeof(self.slots))

    def __dealloc__(self):
        PyMem_Free(self.events)

    def feed(self, bytes data not None, bint last=False):
        """Return the events of the complete lines in `data`, EVENT_DTYPE, (n,).

        The beginning of a line waits for the next call, unless this is the `last`.
        """
        if self.rest:
            data = self.rest + data
        cdef const char* at = PyBytes_AS_STRING(data)
        cdef const char* end = at + PyBytes_GET_SIZE(data)
        cdef const char* stop
        self.n = 0
        while at < end:
            stop = <const char*>memchr(at, 10, end - at)
            if stop == NULL:
                break
            self.line(at, stop)
            at = stop + 1
        self.rest = b""
        if at < end:
            if last:
                self.line(at, end)
            elif end - at > LINE_MAX:
                self.skipping = True
            else:
                self.rest = PyBytes_FromStringAndSize(at, end - at)
        if last and self.holds:
            self.holds = False
            self.miss("(time stamp without an event)")
        return np.frombuffer(
            PyBytes_FromStringAndSize(<char*>self.events, self.n * sizeof(Event)), EVENT_DTYPE
        )

    cdef int miss(self, str kind) except -1:
        """Count a line that is not read."""
        if kind not in self.unread and len(self.unread) >= KINDS_MAX:
            kind = "(other events)"
        self.unread[kind] = self.unread.get(kind, 0) + 1
        return 0

    cdef int miss_event(self, const char* at, const char* end, str why="") except -1:
        cdef str name = PyBytes_FromStringAndSize(
            at, min(end - at, NAME_MAX)
        ).decode("utf-8", "backslashreplace")
        return self.miss(name + why)

    cdef uint16_t name(self, const char* at, const char* end) except? 0:
        """Return the index of a name, which is new or known."""
        cdef uint32_t digest = 2166136261
        cdef const char* c = at
        cdef Py_ssize_t size
        cdef Slot* slot
        cdef bytes key
        if end <= at:
            return 0
        if end - at > NAME_MAX:
            end = at + NAME_MAX
        size = end - at
        while c < end:
            digest = (digest ^ <uint8_t>c[0]) * 16777619
            c += 1
        slot = &self.slots[(digest ^ digest >> 15) % SLOTS]
        if slot.id and slot.size == size and memcmp(slot.text, at, size) == 0:
            return slot.id
        key = PyBytes_FromStringAndSize(at, size)
        found = self.ids.get(key)
        if found is None:
            if len(self.names) >= NAMES_MAX:
                return OTHER
            found = len(self.names)
            self.ids[key] = found
            self.names.append(key.decode("utf-8", "backslashreplace"))
        slot.id = found
        slot.size = <uint8_t>size
        memcpy(slot.text, at, size)
        return found

    cdef int emit(self, const Event* event) except -1:
        cdef Event* moved
        if self.n == self.room:
            self.room = 2 * self.room + 1024
            moved = <Event*>PyMem_Realloc(self.events, self.room * sizeof(Event))
            if moved == NULL:
                raise MemoryError("no memory left for the events of a recording")
            self.events = moved
        self.events[self.n] = event[0]
        self.n += 1
        return 0

    cdef int line(self, const char* at, const char* end) except -1:
        cdef Event event
        cdef const char* start = at
        cdef const char* stamp
        self.lines += 1
        if self.skipping or end - at > LINE_MAX:
            self.skipping = False
            return self.miss("(longer than 65,536 bytes)")
        if end > at and back(end) == 13:
            end -= 1
        end = rtrim(at, end)
        at = skip(at, end)
        while at < end and at[0] == 62:  # a mail's quotation
            at = skip(at + 1, end)
        if at == end:
            return 0
        memset(&event, 0, sizeof(event))
        event.pid = event.cpu = event.vcpu = -1
        stamp = time_stamp(at, end, &event.time)
        if stamp == NULL:
            if self.holds and at[0] != 35:
                self.holds = False
                return self.body(at, end, &self.held)
            return self.other(start, at, end)
        if self.holds:
            self.holds = False
            self.miss("(time stamp without an event)")
        self.header(at, rtrim(at, stamp), &event)
        at = skip(<const char*>memchr(stamp, 58, end - stamp) + 1, end)
        if at == end:
            self.held, self.holds = event, True
            return 0
        return self.body(at, end, &event)

    cdef int other(self, const char* start, const char* at, const char* end) except -1:
        """Read or count a line without a time stamp."""
        cdef Event event
        cdef int64_t cpu = 0, count = 0
        cdef const char* mark
        if at[0] == 35:
            return self.miss("(comment)")
        if end - at > 4 and memcmp(at, "CPU:", 4) == 0:
            memset(&event, 0, sizeof(event))
            event.pid = event.vcpu = -1
            event.kind = LOST
            mark = decimal(at + 4, end, &cpu)
            event.cpu = <int32_t>min(cpu, 0x7fffffff)
            mark = skip(mark, end)
            if decimal_after(mark, end, "LOST ", &count):
                event.a = count
                return self.emit(&event)
            if after(mark, end, "EVENTS DROPPED") != NULL:
                event.a = -1
                return self.emit(&event)
        if end - at > 2 and memcmp(at, "=>", 2) == 0:
            return self.miss("(call chain)")
        mark = hexadecimal(at, end, &cpu)
        if at > start and mark - at >= 6 and (mark == end or is_space(mark[0])):
            return self.miss("(call chain)")
        return self.miss("(no time stamp)")

    cdef int header(self, const char* at, const char* end, Event* event) except -1:
        """Read what stands before the time stamp: task, pid, CPU and flags."""
        cdef const char* mark = end
        cdef const char* digit
        cdef int64_t number = 0
        if end > at and back(end) != 93:  # flags such as d..1 stand between the CPU and the time
            while mark > at and not is_space(back(mark)):
                mark -= 1
            mark = rtrim(at, mark)
            mark = mark if mark > at and back(mark) == 93 else end
        if mark > at and back(mark) == 93:
            digit = mark - 1
            while digit > at and is_digit(back(digit)):
                digit -= 1
            if digit > at and back(digit) == 91 and decimal(digit, mark, &number) > digit:
                event.cpu = <int32_t>min(number, 0x7fffffff)
                end = rtrim(at, digit - 1)
        if end > at and back(end) == 41:  # the group of threads: (  123), (-------)
            mark = end - 1
            while mark > at and (is_digit(back(mark)) or is_space(back(mark)) or back(mark) == 45):
                mark -= 1
            if mark > at and back(mark) == 40:
                end = rtrim(at, mark - 1)
        mark = end
        while mark > at and is_digit(back(mark)):
            mark -= 1
        digit = mark
        if mark == end or decimal(mark, end, &number) == mark:
            event.comm = self.name(at, end)  # a task without a pid
            return 0
        if mark > at and back(mark) == 47:  # perf: PID/TID
            mark -= 1
            while mark > at and is_digit(back(mark)):
                mark -= 1
            if mark + 1 == digit or (mark > at and not is_space(back(mark))):
                mark = digit
        if mark > at and back(mark) == 45 and not (mark - 1 > at and is_space(back(mark - 1))):
            end = mark - 1  # tracefs and trace-cmd: COMM-PID
        elif mark == at or is_space(back(mark)):
            end = rtrim(at, mark)  # perf: COMM  PID
        elif back(mark) == 45:  # perf: COMM  -1
            event.comm = self.name(at, rtrim(at, mark - 1))
            return 0
        else:
            event.comm = self.name(at, end)
            return 0
        event.pid = <int32_t>min(number, 0x7fffffff)
        event.comm = self.name(at, end)
        return 0

    cdef int body(self, const char* at, const char* end, Event* event) except -1:
        """Read the event's name and its fields."""
        cdef const char* stop = token_end(at, end)
        cdef const char* mark
        cdef int64_t number
        cdef bint good
        if stop < end and decimal(at, stop, &number) == stop:  # perf's period
            at = skip(stop, end)
            stop = token_end(at, end)
        if end - at > 10 and memcmp(at, "sys_ioperm", 10) == 0 and at[10] in b"( ":
            good = self.ioperm(at + 10, end, event)
            return self.emit(event) if good else self.miss("sys_ioperm, not understood")
        if equals(at, stop, "PERF_RECORD_LOST"):
            event.kind = LOST
            event.a = number if decimal_after(stop, end, "lost ", &number) else -1
            return self.emit(event)
        # A name ends at the first colon that a space or the end of the line follows.
        if stop == at or back(stop) != 58:
            return self.miss("(no event after the time stamp)")
        mark = stop - 1
        while mark > at and back(mark) != 58:
            mark -= 1
        at, end = mark, end
        mark = stop - 1
        stop = skip(stop, end)
        if mark - at > 4 and memcmp(at, "kvm_", 4) == 0:
            good = self.kvm(at + 4, mark, stop, end, event)
        elif equals(at, mark, "sched_switch"):
            event.kind = SWITCH
            good = self.switch(stop, end, event)
        elif equals(at, mark, "sys_enter_ioperm") or equals(at, mark, "sys_exit_ioperm"):
            good = self.ioperm(stop, end, event)
        else:
            return self.miss_event(at, mark)
        if good:
            return self.emit(event)
        if event.kind == 255:
            return self.miss_event(at, mark)
        return self.miss_event(at, mark, ", not understood")

    cdef bint kvm(
        self, const char* name, const char* name_end, const char* at, const char* end, Event* event
    ) except? 0:
        """Read the fields of a kvm_ event; its kind is 255 where it is one that does not count."""
        cdef int64_t number = 0
        cdef const char* mark
        if decimal_after(at, end, "vcpu ", &number):
            event.vcpu = <int32_t>min(number, 0x7fffffff)
        if equals(name, name_end, "entry"):
            event.kind = ENTRY
            return True
        if equals(name, name_end, "exit"):
            event.kind = EXIT
            return self.reason(at, end, event)
        if equals(name, name_end, "userspace_exit"):
            event.kind = USER
            mark = after(at, end, "reason ")
            if mark == NULL:
                return False
            event.reason = self.name(mark, token_end(mark, end))
            mark = <const char*>memchr(mark, 40, end - mark)
            if mark != NULL:
                decimal(mark + 1, end, &event.a)
            return event.reason != 0
        if equals(name, name_end, "pio"):
            event.kind = PIO
            event.flag = after(at, end, "pio_write") != NULL
            decimal_after(at, end, "size ", &event.b)
            return (event.flag or after(at, end, "pio_read") != NULL) and hex_after(
                at, end, "at ", &event.a
            )
        if equals(name, name_end, "mmio"):
            event.kind = MMIO
            event.flag = 2 if after(at, end, "unsatisfied-read") != NULL else 0
            if after(at, end, "mmio write") != NULL:
                event.flag = 1
            return hex_after(at, end, "gpa ", &event.a)
        if equals(name, name_end, "msr"):
            event.kind = MSR
            event.flag = after(at, end, "msr_write") != NULL
            return hex_after(at, end, "msr_write " if event.flag else "msr_read ", &event.a)
        if equals(name, name_end, "cpuid"):
            event.kind = CPUID
            return hex_after(at, end, "func ", &event.a)
        if equals(name, name_end, "hypercall"):
            event.kind = HYPERCALL
            return True
        if equals(name, name_end, "fpu"):
            event.kind = FPU
            event.flag = equals(at, end, "load")
            return event.flag or equals(at, end, "unload")
        if equals(name, name_end, "nested_vmexit"):
            event.kind = NESTED_EXIT
            return self.reason(at, end, event)
        if name_end - name > 7 and memcmp(name, "nested_", 7) == 0:
            event.kind = NESTED
            return True
        event.kind = 255
        return False

    cdef bint reason(self, const char* at, const char* end, Event* event) except? 0:
        """Read the reason and the qualification of an exit: x86 with `reason`, else arm64."""
        cdef const char* mark = after(at, end, "reason")
        cdef const char* stop
        if mark != NULL and mark < end and (is_space(mark[0]) or mark[0] == 58):
            mark = skip(mark + 1, end)
            stop = token_end(mark, end)
            while stop > mark and back(stop) == 44:
                stop -= 1
            event.reason = self.name(mark, stop)
            if hex_after(stop, end, "info1 ", &event.a):
                hex_after(stop, end, "info2 ", &event.b)
                return event.reason != 0
            mark = after(stop, end, "info ")
            if mark != NULL:
                mark = hexadecimal(mark, end, &event.a)
                hexadecimal(skip(mark, end), end, &event.b)
            return event.reason != 0
        mark = after(at, end, "HSR_EC:")
        if mark == NULL:
            mark = after(at, end, "ESR_EC:")
        stop = <const char*>memchr(at, 58, end - at)
        if mark == NULL or stop == NULL:
            return False
        if not equals(at, stop, "TRAP") and is_word(at[0]) and stop + 1 < mark - 7:
            event.reason = self.name(at, stop)  # IRQ, SERROR: the class says nothing
            return event.reason != 0
        mark = skip(mark, end)
        stop = hexadecimal(mark, end, &event.a)
        at = skip(stop, end)
        if at < end and at[0] == 40:
            mark = at + 1
            stop = <const char*>memchr(mark, 41, end - mark)
            stop = end if stop == NULL else stop
        event.reason = self.name(mark, stop)
        return event.reason != 0

    cdef bint switch(self, const char* at, const char* end, Event* event) except? 0:
        """Read prev, its state and next, as the kernel or as trace-cmd's plugin prints them."""
        cdef const char* arrow = after(at, end, "==> ")
        cdef const char* mark
        cdef const char* name
        cdef const char* state
        if arrow == NULL:
            return False
        mark = after(at, arrow, "prev_state=")
        if mark != NULL:
            state = mark
            name = after(arrow, end, "next_comm=")
            mark = name if name == NULL else after(name, end, "next_pid=")
            if mark == NULL or decimal(mark, end, &event.b) == mark:
                return False
            event.reason = self.name(name, rtrim(name, mark - 9))
            if not decimal_after(at, arrow, "prev_pid=", &event.a):
                return False
        else:  # COMM:PID [PRIO] STATE ==> COMM:PID [PRIO]
            state = rtrim(at, arrow - 4)
            while state > at and not is_space(back(state)):
                state -= 1
            mark = self.colon_pid(at, rtrim(at, state), &event.a)
            if mark == NULL:
                return False
            mark = self.colon_pid(arrow, end, &event.b)
            if mark == NULL:
                return False
            event.reason = self.name(arrow, mark)
        event.flag = 0 if state[0] == 82 else 2 if state[0] in b"XZx" else 1
        return 0 <= event.a <= 0x7fffffff and 0 <= event.b <= 0x7fffffff

    cdef const char* colon_pid(self, const char* at, const char* end, int64_t* pid) except? NULL:
        """Read `COMM:PID [PRIO]`, and return the end of COMM; NULL where it is something else."""
        cdef const char* mark = end
        cdef const char* stop
        while mark > at and back(mark) != 91:
            mark -= 1
        stop = rtrim(at, mark - 1) if mark > at else end
        mark = stop
        while mark > at and is_digit(back(mark)):
            mark -= 1
        if mark <= at or back(mark) != 58 or decimal(mark, stop, pid) == mark:
            return NULL
        return mark - 1

    cdef bint ioperm(self, const char* at, const char* end, Event* event) except? 0:
        """Read the arguments of ioperm(), or its result."""
        cdef const char* mark
        cdef int64_t on = 0
        event.kind = IOPERM
        if hex_after(at, end, "from:", &event.a):
            event.flag = hex_after(at, end, "turn_on:", &on) and on != 0
            return hex_after(at, end, "num:", &event.b)
        event.kind = IOPERM_END
        at = skip(at, end)
        if end - at > 2 and memcmp(at, "->", 2) == 0:
            at = skip(at + 2, end)
        if at < end and at[0] == 45:
            event.a = -1
            return True
        mark = hexadecimal(at, end, &event.a)
        return mark > at and mark == end
