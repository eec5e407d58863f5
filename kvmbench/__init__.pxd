# The names of `cimport kvmbench`: see _steps.pxd and _ports.pxd; docs/embedding.md has examples.
from kvmbench._core cimport Machine
from kvmbench._ports cimport (
    KB_MAP_BYTES, KB_PORTS, KB_TSS_MAP_BYTES, kb_port_check, kb_port_checks,
)
from kvmbench._steps cimport (
    KB_ADVANCE, KB_API, KB_BAD_CHILD, KB_BAD_CODE, KB_BAD_CPU, KB_BAD_CYCLES, KB_BAD_KIND,
    KB_BAD_LEVEL, KB_BAD_PORT, KB_BAD_RANGE, KB_BAD_TASK, KB_BAD_WIDTH, KB_BASE_ALL,
    KB_BASE_INVALID, KB_BASE_VALID, KB_CLOCK, KB_EXEC, KB_EXIT, KB_FORK, KB_IDLE, KB_IN_RUN, KB_IO,
    KB_IOPERM, KB_IOPL, KB_LIMIT_FULL, KB_LIMIT_MIN, KB_NOT_NEW, KB_NO_MEMORY, KB_OK,
    KB_RUNS_ELSEWHERE, KB_SWITCH, KB_TASK_EXIT, KbCode, KbCosts, KbCounters, KbCpu, KbKind,
    KbMachine, KbOp, KbStatus, KbTask, KbTr, kb_advance, kb_allowed, kb_api, kb_check_api,
    kb_counters, kb_cycles, kb_exec, kb_exit, kb_fork, kb_in_guest, kb_io, kb_ioperm, kb_iopl,
    kb_layout, kb_layout_here, kb_repeat_exit, kb_run, kb_switch, kb_task_exit, kb_task_on,
)
