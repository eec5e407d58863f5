"""The KVM extension against this host's kernel: what runs, what is refused, what is left over."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kvmbench.guest import image as guest
from kvmbench.guest.assembler import RAX, RBX, RCX, RDX, Code
from kvmbench.live.machine import make
from kvmbench.tests.command import HANGS
from kvmbench.tests.live import needs_kvm

pytestmark = needs_kvm
_kvm = pytest.importorskip(
    "kvmbench.live._kvm", reason="kvmbench.live._kvm was not built", exc_type=ImportError
)
Vm = _kvm.Vm


@pytest.fixture
def vm():
    with Vm(cpus=2) as vm:
        for address, content in guest.contents().items():
            vm.write(address, content)
        yield vm


def start(vm, write, cpu=0, *, cpl=0, rdi=0):
    code = Code(guest.CODE + 0x1000 * cpu)
    write(code)
    vm.write(guest.CODE + 0x1000 * cpu, code.finish())
    vm.start(
        cpu, rip=guest.CODE + 0x1000 * cpu, rsp=guest.USER_STACK if cpl else guest.STACKS[cpu],
        cr3=guest.PML4, cpl=cpl, rdi=rdi, **guest.TABLES,
    )  # fmt: skip


def run(vm, write, timeout=HANGS, **options):
    start(vm, write, **options)
    return vm.run(0, stop=guest.STOP, timeout=timeout)


def word(vm, address):
    return int.from_bytes(vm.read(address, 8), "little")


def forever(code):
    code.label("here")
    code.jmp("here")


def test_guest_code_computes_and_its_memory_is_read(vm):
    def write(code):
        code.mov_imm(RAX, 0x123456789)
        code.add_imm(RAX, -9)
        code.mov_imm(RBX, guest.RESULT)
        code.store(RBX, RAX)
        code.mov_imm(RAX, 0x5A)
        code.stop()

    outcome = run(vm, write)
    assert word(vm, guest.RESULT) == 0x123456789 - 9
    assert (outcome["reason"], outcome["port"], outcome["value"]) == ("stopped", guest.STOP, 0x5A)
    assert outcome["tsc"] > 0


def test_long_mode_is_what_start_makes(vm):
    """EFER.LMA, paging and CPL as the guest itself sees them; an address above 4 GiB works."""

    def write(code):
        code.mov_from_cr(RAX, 0)
        code.mov_imm(RBX, guest.RESULT)
        code.store(RBX, RAX)
        code.mov_from_cr(RAX, 3)
        code.store(RBX, RAX, 8)
        code.stop()

    run(vm, write)
    assert word(vm, guest.RESULT) & 0x80000001 == 0x80000001
    assert word(vm, guest.RESULT + 8) == guest.PML4


def test_ports_that_nobody_has_read_as_ones(vm):
    def write(code):
        code.mov_imm(RBX, guest.RESULT)
        code.mov_imm(RDX, 0x1234)
        code.in32()
        code.store(RBX, RAX)
        code.mov_imm(RCX, 0xD0000000)
        code.load(RAX, RCX)
        code.store(RBX, RAX, 8)
        code.stop()

    outcome = run(vm, write)
    assert word(vm, guest.RESULT) == 0xFFFFFFFF
    assert word(vm, guest.RESULT + 8) == 2**64 - 1
    assert outcome["io"] == 1
    assert outcome["mmio"] >= 1  # KVM may split a wide access


def test_an_exception_reaches_the_host_with_its_frame(vm):
    def write(code):
        code.mov_imm(RAX, 1 << 63)  # not canonical
        code.load(RBX, RAX)

    outcome = run(vm, write)
    assert (outcome["reason"], outcome["port"], outcome["value"]) == ("stopped", guest.STOP + 1, 13)
    rsp = vm.registers(0)["rsp"]
    vector, error, rip, cs = (word(vm, rsp + 8 * n) for n in range(4))
    assert (vector, error, rip, cs) == (13, 0, guest.CODE + 10, 8)


@pytest.mark.parametrize(("port", "allowed"), [(guest.CPL3_PORT, True), (0x1240, False)])
def test_cpl3_io_goes_by_the_bitmap(vm, port, allowed):
    def write(code):
        code.mov_imm(RDX, port)
        code.in8()
        code.stop()

    outcome = run(vm, write, cpl=3)
    assert outcome["port"] == (guest.STOP if allowed else guest.STOP + 1)
    assert outcome["io"] == int(allowed)
    if not allowed:
        rsp = vm.registers(0)["rsp"]
        assert word(vm, rsp) == 13  # #GP(0) at the IN, from CPL 3
        assert word(vm, rsp + 16) == guest.CODE + 5
        assert word(vm, rsp + 24) & 3 == 3


def test_a_guest_that_makes_no_progress_is_broken(vm):
    begun = time.monotonic()
    outcome = run(vm, forever, timeout=0.05)
    assert outcome["reason"] == "kicked"
    assert time.monotonic() - begun >= 0.05  # at least: no load of the host makes it shorter
    assert run(vm, lambda code: code.stop())["reason"] == "stopped"  # and the next one runs


def test_a_guest_is_broken_though_the_signal_was_blocked(vm):
    """A mask is inherited: the parent of this process may have blocked all signals."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGRTMAX - 3})
    rescue = threading.Timer(HANGS, lambda: os.kill(os.getpid(), signal.SIGALRM))
    handler = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("nothing broke the guest"))
    rescue.start()
    try:
        assert run(vm, forever, timeout=0.05)["reason"] == "kicked"
    finally:
        rescue.cancel()
        signal.signal(signal.SIGALRM, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def test_a_halted_guest_is_broken_too(vm):
    assert run(vm, lambda code: code.hlt(), timeout=0.05)["reason"] == "kicked"


def test_kick_from_another_thread(vm):
    start(vm, forever)
    found = []
    thread = threading.Thread(
        target=lambda: found.append(vm.run(0, stop=guest.STOP, timeout=HANGS))
    )
    thread.start()
    while thread.is_alive():
        vm.kick(0)
        thread.join(0.01)
    assert found[0]["reason"] == "kicked"
    assert vm.kick(0) is False


def test_a_vcpu_belongs_to_one_thread_at_a_time(vm):
    def tell(code):
        code.mov_imm(RBX, guest.ANSWER)
        code.store_imm32(RBX, 7)
        forever(code)

    start(vm, tell)
    thread = threading.Thread(target=lambda: vm.run(0, stop=guest.STOP, timeout=HANGS))
    thread.start()
    while word(vm, guest.ANSWER) != 7:
        assert thread.is_alive()
    try:
        with pytest.raises(ValueError, match="vCPU 0 is running already"):
            vm.run(0, stop=guest.STOP, timeout=1)
        with pytest.raises(ValueError, match="vCPU 0 is running"):
            vm.close()
    finally:
        while thread.is_alive():
            vm.kick(0)
            thread.join(0.01)


def test_a_python_signal_handler_runs_meanwhile(vm):
    class Stop(Exception):
        pass

    def handler(*_):
        raise Stop

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        with pytest.raises(Stop):
            run(vm, forever)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert run(vm, lambda code: code.stop())["reason"] == "stopped"


def test_two_vcpus_share_memory(vm):
    def wait(code):
        code.mov_imm(RBX, guest.ANSWER)
        code.label("wait")
        code.pause()
        code.cmp_mem32(RBX, 7)
        code.jnz("wait")
        code.stop()

    def tell(code):
        code.mov_imm(RBX, guest.ANSWER)
        code.store_imm32(RBX, 7)
        code.stop()

    found = []
    start(vm, wait, cpu=1)
    thread = threading.Thread(
        target=lambda: found.append(vm.run(1, stop=guest.STOP, timeout=HANGS))
    )
    thread.start()
    assert run(vm, tell)["reason"] == "stopped"
    thread.join()
    assert found[0]["reason"] == "stopped"


def test_counters_count_what_the_guest_did(vm):
    def write(code):
        code.mov_imm(RDX, 0x1234)
        for _ in range(50):
            code.in8()
        code.stop()

    before = vm.counters(0)
    if not before:
        pytest.skip("this KVM has no KVM_GET_STATS_FD")
    outcome = run(vm, write)
    after = vm.counters(0)
    assert outcome["io"] == 50
    assert 50 <= after["exits"] - before["exits"] <= 500
    assert set(after) == set(before)


def test_the_timer_of_an_earlier_program_does_not_reach_the_next(vm):
    vm.write(guest.CODE, guest.boot())
    vm.set_msr(0, 0x1B, vm.get_msr(0, 0x1B) | 0x400)
    vm.start(0, rip=guest.CODE, rsp=guest.STACKS[0], cr3=guest.PML4, **guest.TABLES)
    assert vm.run(0, stop=guest.STOP, timeout=HANGS)["port"] == guest.STOP
    vm.keep_lapic(0)

    def arm(code):
        code.wrmsr_imm(0x6E0, 1)  # a deadline long past: the interrupt is pending at once
        code.stop()

    def open_the_door(code):
        code.sti()
        for _ in range(5000):  # more than KVM's emulator takes at a time
            code.nop()
        code.cli()
        code.stop()

    run(vm, arm)
    run(vm, open_the_door)
    assert word(vm, guest.COUNT) & 0xFFFFFFFF == 0
    run(vm, lambda code: (code.wrmsr_imm(0x6E0, 1), open_the_door(code)))
    assert word(vm, guest.COUNT) & 0xFFFFFFFF == 1  # the door was open


def test_an_ioeventfd_takes_the_write_it_wants(vm):
    vm.ioeventfd(0xC000, 1, pio=True, data=0xFA)
    vm.ioeventfd(0xD0000000, 1, pio=False)

    def write(value):
        def body(code):
            code.mov_imm(RDX, 0xC000)
            code.mov_imm(RAX, value)
            code.out8()
            code.mov_imm(RBX, 0xD0000000)
            code.store8(RBX, RAX)
            code.stop()

        return body

    taken, other = run(vm, write(0xFA)), run(vm, write(0xFB))
    assert (taken["io"], taken["mmio"]) == (0, 0)
    assert (other["io"], other["mmio"]) == (1, 0)


@pytest.mark.parametrize("store", ["store8", "store32"])
def test_the_wildcard_event_takes_a_store_of_any_size(store):
    (at,) = (at for at, port, data in guest.EVENTS if not port and data is None)

    def write(code):
        code.mov_imm(RBX, at)
        getattr(code, store)(RBX, RAX)
        code.stop()

    with make(cpus=1) as vm:
        assert run(vm, write)["mmio"] == 0


def test_cpuid_is_what_the_guest_sees(vm):
    def write(code):
        code.xor32(RAX, RAX)
        code.cpuid()
        code.mov(RAX, RBX)
        code.mov_imm(RBX, guest.RESULT)
        code.store(RBX, RAX)
        code.stop()

    run(vm, write)
    assert word(vm, guest.RESULT) == vm.cpuid()[0, 0][1]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda vm: vm.write(guest.MEMORY - 1, b"ab"), IndexError, "2 bytes at 0x1fffff"),
        (lambda vm: vm.read(2**64 - 1, 1), IndexError, "not all in guest memory"),
        (lambda vm: vm.read(0, 2**63), IndexError, "not all in guest memory"),
        (lambda vm: vm.counters(2), IndexError, "vCPU 2 is not one of 2"),
        (lambda vm: vm.kick(-1), IndexError, "vCPU -1"),
        (lambda vm: vm.run(0, stop=0, timeout=0), ValueError, "timeout is 0"),
        (lambda vm: vm.run(0, stop=0, timeout=float("nan")), ValueError, "timeout is nan"),
        (lambda vm: vm.__init__(), ValueError, "set up already"),
        (lambda vm: start(vm, forever, cpl=2), ValueError, "cpl is 2, not 0 or 3"),
        (lambda vm: Vm(cpus=0), ValueError, "cpus is 0, not 1 to 2"),
        (lambda vm: Vm(cpus=9), ValueError, "cpus is 9"),
        (lambda vm: Vm(memory=5000), ValueError, "5000 bytes, not whole pages"),
        (lambda vm: Vm(memory=0), ValueError, "0 bytes"),
        (lambda vm: vm.ioeventfd(0xC000, 3, pio=True), OSError, "KVM_IOEVENTFD"),
    ],
)
def test_what_is_refused(vm, call, error, message):
    with pytest.raises(error, match=message):
        call(vm)


def test_a_closed_vm_refuses_everything():
    vm = Vm()
    vm.close()
    vm.close()
    for call in (
        lambda: vm.read(0, 1),
        lambda: vm.write(0, b"a"),
        lambda: vm.cpuid(),
        lambda: vm.counters(0),
        lambda: vm.registers(0),
        lambda: vm.run(0, stop=0, timeout=1),
        lambda: vm.ioeventfd(0, 1, pio=True),
        lambda: vm.tsc_khz(),
    ):
        with pytest.raises(ValueError, match="this Vm is closed"):
            call()


def left_over():
    descriptors = sorted(os.readlink(f"/proc/self/fd/{n}") for n in _numbers("/proc/self/fd"))
    kvm = [name for name in descriptors if "kvm" in name or "eventfd" in name]
    maps = [line for line in Path("/proc/self/maps").read_text().splitlines() if "kvm" in line]
    return len(descriptors), kvm, maps, len(_numbers("/proc/self/task"))


def _numbers(folder):
    found = []
    for name in os.listdir(folder):
        try:
            os.stat(f"{folder}/{name}")
        except OSError:
            continue  # the one that listed the folder
        found.append(name)
    return found


def test_nothing_is_left_of_a_thousand_machines():
    def once(number):
        vm = Vm(cpus=2)
        vm.ioeventfd(0xC000, 1, pio=True)
        if number % 100 == 0:
            for address, content in guest.contents().items():
                vm.write(address, content)
            run(vm, lambda code: code.stop())
        if number % 2:
            vm.close()  # else the garbage collector does it
        with pytest.raises(OSError, match="KVM_IOEVENTFD"), Vm() as other:
            other.ioeventfd(0, 3, pio=True)

    once(0)
    before = left_over()
    pages = _mapped()
    with ThreadPoolExecutor(8) as pool:  # the kernel takes its time to end a machine
        list(pool.map(once, range(500)))  # two machines each
    gc.collect()
    assert left_over() == before
    assert _mapped() - pages < 200_000  # of 4 KiB; guest memory left over would be 512,000


def test_nothing_is_left_of_a_machine_in_a_cycle():
    def once():
        vm = Vm()
        vm.ioeventfd(0xC000, 1, pio=True)
        cycle = [vm]
        cycle.append(cycle)

    gc.collect()
    before = left_over()
    once()
    gc.collect()
    assert left_over() == before


def _mapped():
    return int(Path("/proc/self/statm").read_text().split()[0])


def test_a_signal_with_another_handler_is_left_alone():
    number = signal.SIGRTMAX - 3
    program = (
        "import signal, sys\n"
        f"signal.signal({int(number)}, lambda *_: None)\n"
        "from kvmbench.live._kvm import Vm\n"
        "with Vm() as vm:\n"
        "    try:\n        vm.run(0, stop=0, timeout=1)\n"
        "    except OSError as error:\n        print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "another handler has the signal that stops a guest: 'SIGRTMAX-3'" in done.stdout


def test_runs_in_two_threads_share_the_handler_and_leave_none(vm):
    """The thread that ends first must not take the handler from the other."""
    before = _caught()
    start(vm, forever)
    start(vm, forever, cpu=1)
    found = []
    thread = threading.Thread(
        target=lambda: found.append(vm.run(1, stop=guest.STOP, timeout=0.4)["reason"])
    )
    thread.start()
    assert vm.run(0, stop=guest.STOP, timeout=0.05)["reason"] == "kicked"
    thread.join()
    assert found == ["kicked"]
    assert _caught() == before


def _caught():
    status = Path("/proc/self/status").read_text()
    return next(line for line in status.splitlines() if line.startswith("SigCgt"))
