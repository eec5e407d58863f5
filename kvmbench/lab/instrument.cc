/* Counts, outside the kernel, what the kernel of an emulated machine executes.

   `kvmbench lab build` compiles this file into Bochs; `kvmbench.lab.run` reads what it writes.
   The machine's own programs call it with a marker: an 8-byte NOP whose displacement is MARK,
   with RDI = what to do, RSI and RDX = its arguments. Any other CPU executes a NOP.

     RDI        RSI             RDX
     LOAD       -               -          copy the files of KVMBENCH_LAB_LOAD to memory (boot sector)
     WRITE      address         bytes      append user memory to KVMBENCH_LAB_DATA
     END        exit status     -          end the emulator
     any other  iterations      -          append a snapshot of all counts to KVMBENCH_LAB_COUNTS
*/

#include "bochs.h"
#include "cpu/cpu.h"
#include "cpu/decoder/ia_opcodes.h"
#include "cpu/svm.h"
#include "memory/memory-bochs.h"

#include <map>
#include <string>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>

#if BX_INSTRUMENTATION

namespace {

const Bit32s MARK = 0x6b766d62;
const Bit64u LOAD = 1, WRITE = 2, END = 3;
const unsigned WROTE_TOO_MUCH = 1 << 26;

struct Counts {
  Bit64u instructions, guest, kernel, user, to_user;
  Bit64u ltr, lgdt, vmread, vmwrite, vmload, vmsave, entries, exits;
  Bit64u cr[9];
  std::map<Bit32u, Bit64u> wrmsr, rdmsr;
  std::map<Bit32u, Bit64u> reasons;
};

Counts n;
bool in_guest, svm_guest, in_user, booted;
Bit32u tr_low = 0xffffffff, tr_high;  // hidden TR limit seen in host user mode since a snapshot
FILE *counts_file, *data_file;

FILE *file_of(const char *name, FILE **kept)
{
  if (!*kept) {
    const char *path = getenv(name);
    *kept = path ? fopen(path, "ab") : NULL;
    if (!*kept) {
      fprintf(stderr, "kvmbench: %s: cannot be opened\n", name);
      exit(70);
    }
  }
  return *kept;
}

void end(int status)
{
  fflush(NULL);
  exit(status);
}

void snapshot(Bit64u tag, Bit64u iterations)
{
  FILE *f = file_of("KVMBENCH_LAB_COUNTS", &counts_file);
  fprintf(f, "%llu %llu", (unsigned long long) tag, (unsigned long long) iterations);
  struct { const char *name; Bit64u value; } all[] = {
    {"instructions", n.instructions}, {"instructions_kernel", n.kernel},
    {"instructions_user", n.user}, {"instructions_guest", n.guest}, {"returns_to_user", n.to_user},
    {"exits", n.exits}, {"entries", n.entries}, {"ltr", n.ltr}, {"lgdt", n.lgdt},
    {"vmread", n.vmread}, {"vmwrite", n.vmwrite},
    {"vmload", n.vmload}, {"vmsave", n.vmsave}, {"cr0_writes", n.cr[0]}, {"cr2_writes", n.cr[2]},
    {"cr3_writes", n.cr[3]}, {"cr4_writes", n.cr[4]}, {"cr8_writes", n.cr[8]},
  };
  for (auto &item : all)
    fprintf(f, " %s=%llu", item.name, (unsigned long long) item.value);
  for (auto &item : n.wrmsr)
    fprintf(f, " wrmsr_%x=%llu", item.first, (unsigned long long) item.second);
  for (auto &item : n.rdmsr)
    fprintf(f, " rdmsr_%x=%llu", item.first, (unsigned long long) item.second);
  for (auto &item : n.reasons)
    fprintf(f, " exit_%x=%llu", item.first, (unsigned long long) item.second);
  if (tr_low <= tr_high)
    fprintf(f, " tr_low=%u tr_high=%u", tr_low, tr_high);
  fputc('\n', f);
  fflush(f);
  tr_low = 0xffffffff;
  tr_high = 0;
}

void write_out(BX_CPU_C *c, bx_address address, Bit64u bytes)
{
  FILE *f = file_of("KVMBENCH_LAB_DATA", &data_file);
  Bit8u page[4096];
  if (bytes > WROTE_TOO_MUCH)
    bytes = WROTE_TOO_MUCH;
  while (bytes) {
    unsigned some = 4096 - (unsigned) (address & 4095);
    bx_phy_address physical;
    if (some > bytes)
      some = (unsigned) bytes;
    if (!c->dbg_xlate_linear2phy(address, &physical)) {
      fprintf(stderr, "kvmbench: a page to write out is not there\n");
      break;
    }
    BX_MEM(0)->readPhysicalPage(c, physical, some, page);
    fwrite(page, 1, some, f);
    address += some;
    bytes -= some;
  }
  fflush(f);
}

// KVMBENCH_LAB_LOAD is "ADDRESS PATH" lines, the address in hexadecimal.
void load(BX_CPU_C *c)
{
  const char *text = getenv("KVMBENCH_LAB_LOAD");
  std::string lines = text ? text : "";
  Bit8u page[4096];
  booted = true;
  for (size_t at = 0; at < lines.size();) {
    size_t stop = lines.find('\n', at);
    if (stop == std::string::npos)
      stop = lines.size();
    size_t gap = lines.find(' ', at);
    if (gap == std::string::npos || gap >= stop)
      break;
    Bit64u address = strtoull(lines.c_str() + at, NULL, 16);
    std::string path = lines.substr(gap + 1, stop - gap - 1);
    FILE *f = fopen(path.c_str(), "rb");
    if (!f) {
      fprintf(stderr, "kvmbench: %s: cannot be opened\n", path.c_str());
      end(70);
    }
    size_t some;
    while ((some = fread(page, 1, 4096 - (address & 4095), f)) > 0) {
      BX_MEM(0)->writePhysicalPage(c, address, (unsigned) some, page);
      address += some;
    }
    fclose(f);
    at = stop + 1;
  }
}

void marked(BX_CPU_C *c)
{
  Bit64u what = c->gen_reg[BX_64BIT_REG_RDI].rrx, first = c->gen_reg[BX_64BIT_REG_RSI].rrx;
  if (what == LOAD) {
    snapshot(what, 0);
    load(c);
  }
  else if (what == WRITE)
    write_out(c, first, c->gen_reg[BX_64BIT_REG_RDX].rrx);
  else if (what == END)
    end((int) first);
  else
    snapshot(what, first);
}

// In long mode a NOP of 8 bytes; the boot sector's has an address-size prefix and is one longer.
inline bool is_marker(bxInstruction_c *i)
{
  return i->getIaOpcode() == BX_IA_NOP && i->ilen() >= 8 && i->ilen() <= 9 && i->displ32s() == MARK;
}

void left_guest(BX_CPU_C *c)
{
  in_guest = false;
  n.exits++;
  if (svm_guest) {  // SVM has no hook: the reason stands in the VMCB, whose address stays
    Bit32u reason = 0xffffffff;
    BX_MEM(0)->readPhysicalPage(c, c->vmcbptr + SVM_CONTROL64_EXITCODE, 4, &reason);
    n.reasons[reason]++;
  }
}

}  // namespace

void kvmbench_reset(void)
{
  prctl(PR_SET_PDEATHSIG, SIGKILL);  // whatever ends kvmbench ends its emulator
  if (booted)  // the kernel panicked, or restarts
    end(71);
}

void kvmbench_vmexit(unsigned, Bit32u reason)
{
  n.reasons[reason & 0xffff]++;
}

void kvmbench_before(unsigned cpu, bxInstruction_c *i)
{
  BX_CPU_C *c = BX_CPU(cpu);
  n.instructions++;
  if (c->in_vmx_guest || c->in_svm_guest) {
    n.guest++;
    in_guest = true;
    svm_guest = c->in_svm_guest;
    return;
  }
  if (in_guest)
    left_guest(c);
  if (c->sregs[BX_SEG_REG_CS].selector.rpl == 3) {
    n.user++;
    if (!in_user) {
      in_user = true;
      n.to_user++;
      Bit32u limit = c->tr.cache.u.segment.limit_scaled;
      if (limit < tr_low)
        tr_low = limit;
      if (limit > tr_high)
        tr_high = limit;
    }
    if (is_marker(i))
      marked(c);
    return;
  }
  in_user = false;
  n.kernel++;
  switch (i->getIaOpcode()) {
    case BX_IA_NOP:
      if (!booted && is_marker(i))
        marked(c);
      break;
    case BX_IA_LTR_Ew: n.ltr++; break;
    case BX_IA_LGDT_Ms: case BX_IA_LGDT_Op64_Ms: n.lgdt++; break;
    case BX_IA_WRMSR: case BX_IA_WRMSRNS: n.wrmsr[c->gen_reg[BX_32BIT_REG_ECX].dword.erx]++; break;
    case BX_IA_RDMSR: n.rdmsr[c->gen_reg[BX_32BIT_REG_ECX].dword.erx]++; break;
    case BX_IA_VMREAD_EqGq: n.vmread++; break;
    case BX_IA_VMWRITE_GqEq: n.vmwrite++; break;
    case BX_IA_VMLAUNCH: case BX_IA_VMRESUME: case BX_IA_VMRUN: n.entries++; break;
    case BX_IA_VMLOAD: n.vmload++; break;
    case BX_IA_VMSAVE: n.vmsave++; break;
    case BX_IA_MOV_CR0Rq: n.cr[0]++; break;
    case BX_IA_MOV_CR2Rq: n.cr[2]++; break;
    case BX_IA_MOV_CR3Rq: n.cr[3]++; break;
    case BX_IA_MOV_CR4Rq: n.cr[4]++; break;
    default: break;
  }
}

#endif
