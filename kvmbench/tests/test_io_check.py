"""check-io: what it draws, what it says of a judge that is wrong, and 10,000 cases for real."""

import random
from dataclasses import replace

import pytest

from kvmbench.errors import LiveError
from kvmbench.live import io_check
from kvmbench.live.host import loaded_vendor
from kvmbench.live.io_check import TSS_ROOM, Access, check_io, draw, judge
from kvmbench.results import Host
from kvmbench.tests.live import needs_kvm


def test_draws_reach_every_corner():
    random_ = random.Random(3)
    drawn = [draw(random_) for _ in range(5000)]
    for access in drawn:
        assert 103 <= access.limit < TSS_ROOM
        assert access.base + io_check.MAP_BYTES <= TSS_ROOM
        assert 0 <= access.port <= 0xFFFF
        assert not io_check.image.STOP <= access.port < io_check.image.STOP + 4
        assert access.offset == access.base + access.port // 8
    for distance in (-1, 0, 1):
        assert sum(a.limit - a.offset == distance for a in drawn) > 50
    assert {a.width for a in drawn} == {1, 2, 4}
    assert {a.out for a in drawn} == {False, True}
    assert {a.port for a in drawn} >= {0xFFFF, 0xFFFE, 0xFFFD}
    assert {a.port % 8 for a in drawn} == set(range(8))
    assert {a.iopl for a in drawn} == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("facts", "words", "emulated"),
    [
        (
            Host(kvm="kvm_intel", facts={"hypervisor": "no"}),
            "the processor (VMX; CPUID shows no hypervisor)",
            False,
        ),
        (
            Host(kvm="kvm_amd", facts={"hypervisor": "no"}),
            "the processor (SVM; CPUID shows no hypervisor)",
            False,
        ),
        (
            Host(kvm="kvm_intel", facts={"hypervisor": "yes"}),
            "(VMX), or the hypervisor that CPUID shows",
            True,
        ),
        (Host(kvm="kvm_pvm", facts={"hypervisor": "yes"}), "this is PVM", True),
        (Host(), "whose module kvmbench does not know", True),
    ],
)
def test_who_judges(facts, words, emulated):
    said, soft = judge(facts)
    assert words in said
    assert soft is emulated


@needs_kvm
def test_ten_thousand_cases():
    found = check_io(10_000, seed=11)
    assert found.cases == 10_000
    assert found.disagreements == []
    assert found.disagreeing == 0
    assert found.agreeing + found.apart_allowed + found.levels_denied == 10_000
    assert found.levels > 300
    assert found.apart_allowed <= found.apart
    assert 2000 < found.allowed < 8000
    assert found.apart > 100
    if loaded_vendor() == "kvm_pvm":  # KVM's emulator decides, and wants only the first byte
        assert found.apart_allowed > found.apart / 2


@needs_kvm
@pytest.mark.parametrize(
    "wrong",
    [
        lambda limit, base, bits, port, width, iopl: limit >= base + port // 8 + 1,  # no bits
        lambda limit, base, bits, port, width, iopl: (
            not any(bits[(port + n) // 8] >> (port + n) % 8 & 1 for n in range(width))
        ),  # no limit
        lambda limit, base, bits, port, width, iopl: (
            limit >= base + port // 8 + 1 and not bits[port // 8] >> port % 8 & 1
        ),  # only the first bit
        lambda limit, base, bits, port, width, iopl: (
            limit >= base + port // 8 + 2
            and not any(bits[(port + n) // 8] >> (port + n) % 8 & 1 for n in range(width))
        ),  # one byte more
    ],
    ids=["bits", "limit", "width", "terminator"],
)
def test_a_wrong_rule_is_found(monkeypatch, wrong):
    monkeypatch.setattr(io_check, "port_check", wrong)
    found = check_io(1500, seed=2)
    assert found.disagreeing > 10
    assert len(found.disagreements) == 10
    assert str(found.disagreements[0]).startswith("case ")


@needs_kvm
def test_only_the_limit_lets_a_case_stand_apart(monkeypatch):
    """What is denied for its bits and allowed all the same is a disagreement, wherever it is."""
    monkeypatch.setattr(io_check, "port_check", lambda *_: False)
    found = check_io(1500, seed=2)
    assert found.apart_allowed == 0
    assert found.disagreeing > 300


@needs_kvm
def test_a_case_can_be_tried_again():
    first, second = check_io(300, seed=4), check_io(300, seed=4)
    assert (first.allowed, first.apart) == (second.allowed, second.apart)
    assert check_io(300, seed=5).allowed != first.allowed


@needs_kvm
def test_a_judge_that_is_the_processor_is_let_off_nothing(monkeypatch):
    """Where KVM's emulator judges and is taken for a processor, its rule is a disagreement."""
    monkeypatch.setattr(io_check, "judge", lambda _: ("a processor", False))
    soft = check_io(1500, seed=2)
    monkeypatch.undo()
    found = check_io(1500, seed=2)
    assert soft.apart_allowed == 0
    assert soft.disagreeing == found.apart_allowed + found.levels_denied
    for one in soft.disagreements:
        level = one.access.iopl == 3
        assert level or one.access.offset == one.access.limit
        assert (one.expected, one.found) == (level, not level)


@needs_kvm
def test_a_judge_that_allows_nothing_does_not_blame_port_check(monkeypatch):
    monkeypatch.setattr(io_check, "accepts_busy_tss", lambda _: False)
    with pytest.raises(LiveError, match=r"^kvmbench cannot check port_check with .* no busy TSS\."):
        check_io(300, seed=2)


def test_no_cases():
    with pytest.raises(ValueError, match="cases is 0, not 1 or more"):
        check_io(0)


def test_an_access_in_words():
    access = Access(limit=0x67, base=0x68, port=0x60, width=1, out=True, word=0)
    one = io_check.Case(number=0, access=access, word=0x1FF, expected=True, found=False)
    assert str(one) == (
        "case 0: OUT of 1 byte at 0x60, TR limit 0x67, bitmap at 0x68, bytes 0xff 0x01: port_check "
        "says allowed, it was denied"
    )
    assert ": OUT of 1 byte at 0x60, IOPL 3, TR limit 0x67," in str(
        replace(one, access=replace(access, iopl=3))
    )
