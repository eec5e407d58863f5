/* A plugin of QEMU (interface version 1) that counts what the kernel of the machine executes.

   ci/lab-qemu compiles and loads it. At each marker, the NOP of kvmbench/lab/instrument.cc, it
   writes a line of all counts to the file of its argument `o=FILE`. It needs no header of QEMU:
   the declarations below are those parts of the interface that it uses. */

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

struct qemu_plugin_tb;
struct qemu_plugin_insn;
typedef struct qemu_info_t qemu_info_t;
typedef uint64_t plugin_id;

size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *);
size_t qemu_plugin_insn_size(const struct qemu_plugin_insn *);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *);
void qemu_plugin_register_vcpu_tb_trans_cb(
    plugin_id, void (*)(plugin_id, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_insn_exec_cb(
    struct qemu_plugin_insn *, void (*)(unsigned, void *), int flags, void *);

__attribute__((visibility("default"))) int qemu_plugin_version = 1;

enum { LTR, LGDT, WRMSR, RDMSR, VMRUN, VMLOAD, VMSAVE, KINDS };
static const char *const names[KINDS] = {
	"ltr", "lgdt", "wrmsr", "rdmsr", "entries", "vmload", "vmsave",
};
static uint64_t counts[KINDS];
static FILE *out;
static const uint8_t marker[] = { 0x62, 0x6d, 0x76, 0x6b }; /* MARK of instrument.cc */

/* Return the kind of an instruction, or -1. */
static int kind_of(const uint8_t *code, size_t size)
{
	while (size > 1 && (*code == 0x66 || *code == 0x2e || *code == 0x3e ||
			    (*code & 0xf0) == 0x40)) /* prefixes of segments and sizes, REX */
		code++, size--;
	if (size < 2 || code[0] != 0x0f)
		return -1;
	switch (code[1]) {
	case 0x30:
		return WRMSR;
	case 0x32:
		return RDMSR;
	}
	if (size < 3)
		return -1;
	int reg = code[2] >> 3 & 7, memory = code[2] >> 6 != 3;
	if (code[1] == 0x00 && reg == 3)
		return LTR;
	if (code[1] != 0x01)
		return -1;
	if (memory)
		return reg == 2 ? LGDT : -1;
	return code[2] == 0xd8 ? VMRUN : code[2] == 0xda ? VMLOAD : code[2] == 0xdb ? VMSAVE : -1;
}

static void count(unsigned cpu, void *kind)
{
	counts[(intptr_t) kind]++;
}

static void snapshot(unsigned cpu, void *unused)
{
	for (int i = 0; i < KINDS; i++)
		fprintf(out, "%s%s=%llu", i ? " " : "", names[i], (unsigned long long) counts[i]);
	fputc('\n', out);
	fflush(out);
}

static void translated(plugin_id id, struct qemu_plugin_tb *tb)
{
	for (size_t i = 0; i < qemu_plugin_tb_n_insns(tb); i++) {
		struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
		const uint8_t *code = qemu_plugin_insn_data(insn);
		size_t size = qemu_plugin_insn_size(insn);
		if (qemu_plugin_insn_vaddr(insn) >> 63) { /* the host's kernel, not the guest's code */
			int kind = kind_of(code, size);
			if (kind >= 0)
				qemu_plugin_register_vcpu_insn_exec_cb(insn, count, 0, (void *) (intptr_t) kind);
		} else if (size == 8 && code[0] == 0x0f && code[1] == 0x1f &&
			   !memcmp(code + 4, marker, sizeof(marker)))
			qemu_plugin_register_vcpu_insn_exec_cb(insn, snapshot, 0, NULL);
	}
}

__attribute__((visibility("default"))) int qemu_plugin_install(
    plugin_id id, const qemu_info_t *info, int argc, char **argv)
{
	if (argc != 1 || strncmp(argv[0], "o=", 2) || !(out = fopen(argv[0] + 2, "w")))
		return 1;
	qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
	return 0;
}
