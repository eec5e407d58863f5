"""A trace.dat for trace-cmd, made of events: so that trace-cmd itself prints what is then read.

The file is that of Documentation/trace-cmd/trace-cmd.dat.v6.5.txt of trace-cmd; the pages are those
of the kernel's ring buffer (include/linux/ring_buffer.h), the formats those of Linux 5.10.
"""

import struct

PAGE = 4096
REASONS = {
    "EXCEPTION_NMI": 0, "EXTERNAL_INTERRUPT": 1, "CPUID": 10, "HLT": 12, "IO_INSTRUCTION": 30,
    "MSR_WRITE": 32, "EPT_VIOLATION": 48,
}  # fmt: skip
HEADER_PAGE = """\tfield: u64 timestamp;\toffset:0;\tsize:8;\tsigned:0;
\tfield: local_t commit;\toffset:8;\tsize:8;\tsigned:1;
\tfield: int overwrite;\toffset:8;\tsize:1;\tsigned:1;
\tfield: char data;\toffset:16;\tsize:4080;\tsigned:1;
"""
HEADER_EVENT = """# compressed entry header
\ttype_len    :    5 bits
\ttime_delta  :   27 bits
\tarray       :   32 bits

\tpadding     : type == 29
\ttime_extend : type == 30
\tdata max type_len  == 28
"""
COMMON = (
    "unsigned short common_type 0 2 0", "unsigned char common_flags 2 1 0",
    "unsigned char common_preempt_count 3 1 0", "int common_pid 4 4 1",
)  # fmt: skip
FORMATS = {  # name: (system, id, fields after the common ones, print fmt)
    "kvm_entry": (
        "kvm", 101, ("unsigned int vcpu_id 8 4 0", "unsigned long rip 16 8 0"),
        '"vcpu %u, rip 0x%lx", REC->vcpu_id, REC->rip',
    ),
    "kvm_exit": (
        "kvm", 102,
        ("unsigned int exit_reason 8 4 0", "unsigned long guest_rip 16 8 0", "u32 isa 24 4 0",
         "u64 info1 32 8 0", "u64 info2 40 8 0", "u32 intr_info 48 4 0", "u32 error_code 52 4 0",
         "unsigned int vcpu_id 56 4 0"),
        '"vcpu %u reason %s rip 0x%lx info1 0x%016llx info2 0x%016llx", REC->vcpu_id, '
        "__print_symbolic(REC->exit_reason, "
        + ", ".join(f'{{ {number}, "{name}" }}' for name, number in REASONS.items())
        + "), REC->guest_rip, REC->info1, REC->info2",
    ),
    "kvm_userspace_exit": (
        "kvm", 103, ("__u32 reason 8 4 0", "int errno 12 4 1"),
        '"reason %s (%d)", __print_symbolic(REC->reason, { 2, "KVM_EXIT_IO" }, '
        '{ 6, "KVM_EXIT_MMIO" }), REC->reason',
    ),
    "sched_switch": (
        "sched", 104,
        ("char prev_comm[16] 8 16 0", "pid_t prev_pid 24 4 1", "int prev_prio 28 4 1",
         "long prev_state 32 8 1", "char next_comm[16] 40 16 0", "pid_t next_pid 56 4 1",
         "int next_prio 60 4 1"),
        '"prev_comm=%s prev_pid=%d prev_prio=%d prev_state=%s%s ==> next_comm=%s next_pid=%d '
        'next_prio=%d", REC->prev_comm, REC->prev_pid, REC->prev_prio, (REC->prev_state & 0xff) ? '
        '__print_flags(REC->prev_state & 0xff, "|", { 1, "S" }, { 2, "D" }, { 16, "X" }) : "R", '
        'REC->prev_state & 256 ? "+" : "", REC->next_comm, REC->next_pid, REC->next_prio',
    ),
}  # fmt: skip


def _field(text):
    *kind, offset, size, signed = text.split(" ")
    return f"\tfield:{' '.join(kind)};\toffset:{offset};\tsize:{size};\tsigned:{signed};\n"


def _format(name):
    _, number, fields, said = FORMATS[name]
    common, own = "".join(map(_field, COMMON)), "".join(map(_field, fields))
    return f"name: {name}\nID: {number}\nformat:\n{common}\n{own}\nprint fmt: {said}\n".encode()


def _event(line):
    f = line.fields
    head = struct.pack("<HBBi", FORMATS[line.what][1], 0, 0, line.pid)
    if line.what == "kvm_entry":
        return head + struct.pack("<IIQ", f[0], 0, 0x1000)
    if line.what == "kvm_exit":
        vcpu, reason, info = f
        body = struct.pack("<IIQIIQQIII", REASONS[reason], 0, 0x1000, 1, 0, info, 0, 0, 0, vcpu)
        return head + body
    if line.what == "kvm_userspace_exit":
        return head + struct.pack("<Ii", f[1], 0)
    state, comm, pid = f
    number = {"R": 0, "R+": 256, "S": 1, "D": 2, "X": 16}[state]
    names = (line.comm.encode(), line.pid, 120, number, comm.encode(), pid, 120)
    return head + struct.pack("<16siiq16sii", *names)


def _pages(lines):
    """Return the ring buffer of one CPU."""
    pages, data, start, now = [], b"", 0, 0
    for line in lines:
        body = _event(line)
        body += b"\0" * (-len(body) % 4)
        delta = line.ns - now
        record = b""
        if data and delta >= 1 << 27:
            record += struct.pack("<II", 30 | (delta & (1 << 27) - 1) << 5, delta >> 27)
            delta = 0
        if len(data) + len(record) + len(body) + 4 > PAGE - 16 or not data:
            if data:
                pages.append((start, data))
            data, record, start, delta = b"", b"", line.ns, 0
        data += record + struct.pack("<I", len(body) // 4 | delta << 5) + body
        now = line.ns
    if data:
        pages.append((start, data))
    return b"".join(
        struct.pack("<QQ", start, len(data)) + data + b"\0" * (PAGE - 16 - len(data))
        for start, data in pages
    )


def _sized(data, form="<Q"):
    return struct.pack(form, len(data)) + data


def trace_dat(lines):
    """Return a trace.dat with the events of `lines`, each CPU's in the order of their times."""
    cpus = 1 + max(line.cpu for line in lines)
    head = b"\x17\x08\x44tracing6\0" + struct.pack("<BBI", 0, 8, PAGE)
    head += b"header_page\0" + _sized(HEADER_PAGE.encode())
    head += b"header_event\0" + _sized(HEADER_EVENT.encode())
    head += struct.pack("<I", 0)
    systems = {}
    for name, (system, *_) in FORMATS.items():
        systems.setdefault(system, []).append(_sized(_format(name)))
    head += struct.pack("<I", len(systems))
    for system, formats in systems.items():
        head += system.encode() + b"\0" + struct.pack("<I", len(formats)) + b"".join(formats)
    tasks = {line.pid: line.comm for line in lines if line.pid}
    head += struct.pack("<II", 0, 0)  # kallsyms, printk formats
    head += _sized("".join(f"{pid} {comm}\n" for pid, comm in tasks.items()).encode())
    head += struct.pack("<I", cpus) + b"flyrecord\0"
    buffers = [_pages([line for line in lines if line.cpu == cpu]) for cpu in range(cpus)]
    offset = len(head) + 16 * cpus
    offset += -offset % PAGE
    table, at = b"", offset
    for buffer in buffers:
        table += struct.pack("<QQ", at, len(buffer))
        at += len(buffer)
    whole = head + table
    return whole + b"\0" * (offset - len(whole)) + b"".join(buffers)
