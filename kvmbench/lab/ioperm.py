"""A process's own IN on the emulated machine, with and without ioperm() and a KVM_RUN before it.

`kvmbench.lab.inside` calls `tries` there; `kvmbench lab check-ioperm` prints the outcome.
"""

from __future__ import annotations

import ctypes
import faulthandler
import mmap
import os
import signal
from typing import TypedDict

from kvmbench.errors import LiveError

__all__ = ["PORT", "PORTS", "Try", "tries"]

PORT, PORTS = 0x378, 3
CODE = bytes.fromhex("66ba7803 ec c3")  # mov dx, 0x378; in al, dx; ret
SECONDS = 5.0  # for a guest of a few instructions


class Try(TypedDict):
    """One process, and the kernel's answer to its IN at CPL 3."""

    ioperm: bool  # it holds the port
    kvm_run: bool  # it ran a guest after ioperm()
    allowed: bool  # else it got SIGSEGV


def tries() -> list[Try]:
    """Return the answers to four processes, those that run no guest first.

    A kernel that forgets the limit of TR after a KVM_RUN forgets it for later processes too.
    Raises LiveError where a process ends in another way.
    """
    cases = [(held, ran) for ran in (False, True) for held in (False, True)]
    return [Try(ioperm=held, kvm_run=ran, allowed=_allowed(held, ran)) for held, ran in cases]


def _allowed(held: bool, ran: bool) -> bool:
    """Return whether a new process may do the IN."""
    out, into = os.pipe()
    child = os.fork()
    if not child:
        words = b""
        faulthandler.disable()  # SIGSEGV is an answer
        try:
            _access(held, ran)
        except BaseException as error:  # noqa: BLE001, the parent reports it
            words = str(error).encode() or b"no reason given"
        os.write(into, words)
        os._exit(bool(words))
    os.close(into)
    with open(out, "rb") as file:
        words = file.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status not in (0, -signal.SIGSEGV):
        raise LiveError(f"a process that tried a port ended with {status}: {words.decode()}")
    return status == 0


def _access(held: bool, ran: bool) -> None:
    from kvmbench.guest import image
    from kvmbench.live._kvm import ioperm
    from kvmbench.live.machine import make, start

    with mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC) as m:
        m.write(CODE)
        code = ctypes.c_char.from_buffer(m)
        read = ctypes.CFUNCTYPE(ctypes.c_uint8)(ctypes.addressof(code))
        vm = make(cpus=1) if ran else None
        if held and (number := ioperm(PORT, PORTS, True)):
            raise LiveError(f"ioperm(): {os.strerror(number)}")
        if vm is not None:
            start(vm, 0)
            vm.run(0, stop=image.STOP, timeout=SECONDS)
        read()
        os._exit(0)  # the process's own end: the mapping is in use
