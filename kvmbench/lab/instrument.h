/* The hooks of Bochs that kvmbench fills; every other hook is empty. */
#ifndef KVMBENCH_INSTRUMENT_H
#define KVMBENCH_INSTRUMENT_H

#if BX_INSTRUMENTATION

class bxInstruction_c;

void kvmbench_reset(void);
void kvmbench_before(unsigned cpu, bxInstruction_c *i);
void kvmbench_vmexit(unsigned cpu, Bit32u reason);

#define BX_INSTR_RESET(cpu, type) kvmbench_reset()
#define BX_INSTR_BEFORE_EXECUTION(cpu, i) kvmbench_before(cpu, i)
#define BX_INSTR_VMEXIT(cpu, reason, qualification) kvmbench_vmexit(cpu, reason)

#else

#define BX_INSTR_RESET(cpu, type)
#define BX_INSTR_BEFORE_EXECUTION(cpu, i)
#define BX_INSTR_VMEXIT(cpu, reason, qualification)

#endif

#define BX_INSTR_INIT_ENV()
#define BX_INSTR_EXIT_ENV()
#define BX_INSTR_INITIALIZE(...)
#define BX_INSTR_EXIT(...)
#define BX_INSTR_HLT(...)
#define BX_INSTR_MWAIT(...)
#define BX_INSTR_DEBUG_PROMPT()
#define BX_INSTR_DEBUG_CMD(...)
#define BX_INSTR_CNEAR_BRANCH_TAKEN(...)
#define BX_INSTR_CNEAR_BRANCH_NOT_TAKEN(...)
#define BX_INSTR_UCNEAR_BRANCH(...)
#define BX_INSTR_FAR_BRANCH(...)
#define BX_INSTR_OPCODE(...)
#define BX_INSTR_EXCEPTION(...)
#define BX_INSTR_INTERRUPT(...)
#define BX_INSTR_HWINTERRUPT(...)
#define BX_INSTR_CLFLUSH(...)
#define BX_INSTR_CACHE_CNTRL(...)
#define BX_INSTR_TLB_CNTRL(...)
#define BX_INSTR_PREFETCH_HINT(...)
#define BX_INSTR_AFTER_EXECUTION(...)
#define BX_INSTR_REPEAT_ITERATION(...)
#define BX_INSTR_LIN_ACCESS(...)
#define BX_INSTR_PHY_ACCESS(...)
#define BX_INSTR_INP(...)
#define BX_INSTR_INP2(...)
#define BX_INSTR_OUTP(...)
#define BX_INSTR_WRMSR(...)

#endif
