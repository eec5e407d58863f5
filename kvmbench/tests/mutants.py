"""Policies that are wrong in a way that is known, and some that look wrong and are not.

The list is that of the reviews and fixes of the patch (Linux b7ffc44d5b2e, b7ceaec112aa, and
22fe5b0439dd, cadfad870154 for the base) turned into mutations of the built-in policies.
"""

from dataclasses import replace

from kvmbench import policies

EAGER, DEFERRED, TO_USER = (policies()[n] for n in ("eager", "deferred", "exit-to-user"))
SWITCH = ("copy_map if next.tif", "refresh if next.tif", "wipe_map if prev.tif and not next.tif")
BOTH = ("reload if tif", "mark_stale if not tif")
CALL = ("alloc_map", "set_tif if first", ("refresh if first",), ("edit_map", "load_map"))
SYNC = ("sync_map if tif and not iopl", "validate_base if tif and not iopl")
SYNC += ("validate_all if tif and iopl", "refresh if tif")


def deferred(name, **hooks):
    return replace(DEFERRED, name=name, **hooks)


def to_user(name, **hooks):
    return replace(TO_USER, name=name, **hooks)


assert (DEFERRED.switch, DEFERRED.vcpu_put, DEFERRED.ioperm) == ((SWITCH,), (BOTH,), CALL)
assert TO_USER.exit_to_user == (SYNC,)

UNSAFE = [  # policy, what it leads to, whether Machine's operations can show it
    (deferred("late tif", ioperm=(CALL[0], CALL[2], CALL[1], CALL[3])), "denial", False),
    (deferred("no refresh on switch-in", switch=((SWITCH[0], SWITCH[2]),)), "denial", True),
    (deferred("no refresh in ioperm", ioperm=(CALL[0], CALL[1], CALL[3])), "denial", True),
    (deferred("first version", vcpu_put=(("mark_stale",),)), "denial", True),
    (
        deferred("clear for reload", vcpu_put=(("clear_stale if tif", "mark_stale if not tif"),)),
        "denial",
        True,
    ),
    (replace(EAGER, name="ltr alone", vcpu_put=(("ltr",),)), "fault", True),
    (deferred("no wipe", switch=(SWITCH[:2],)), "leak", True),
    (replace(EAGER, name="eager, no wipe", switch=(("copy_map if next.tif",),)), "leak", True),
    (to_user("base stays", switch=()), "leak", True),
    (deferred("no put by switch", vcpu_put=tuple(f"{s} and not sched" for s in BOTH)), None, True),
    (deferred("no put to user", vcpu_put=(tuple(f"{s} and sched" for s in BOTH),)), "denial", True),
    (deferred("no mark", vcpu_put=(BOTH[:1],)), "denial", True),
    (to_user("no mark, to user", vcpu_put=(BOTH[:1],)), "denial", True),
    (to_user("no sync", exit_to_user=(SYNC[1:],)), None, True),
    # As deferred, but the put's reload can be preempted away from its CPU.
    (deferred("put in two", vcpu_put=BOTH), "denial", False),
    # The map stays with the policy's own idea of empty: what was asked for is not done.
    (deferred("no edit", ioperm=(*CALL[:3], ("load_map",))), "denial", False),
]
HARMLESS = [
    deferred("reload at every put", vcpu_put=(("reload",),)),
    deferred(
        "mark when scheduled out",
        vcpu_put=(("reload if tif and not sched", "mark_stale if not tif", "mark_stale if sched"),),
    ),
    deferred("refresh at every ioperm", ioperm=(*CALL[:2], ("refresh",), CALL[3])),
    to_user("sync for all", exit_to_user=(("sync_map", *SYNC[1:]),)),
]
