"""Whole hosts: by hand, against the plain reference, for any number of threads, as operations."""

import math
import pickle
import random
import signal
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from click.testing import CliRunner

from kvmbench import Machine, Op, Policy, policies, profiles
from kvmbench.causes import CAUSES, WRONG
from kvmbench.cli.main import main
from kvmbench.errors import FileError, IncompatibleError
from kvmbench.scenario import sampling
from kvmbench.scenario._host import Host, philox
from kvmbench.scenario.result import Comparison, worth
from kvmbench.scenario.scenario import Scenario, Tasks, load_scenario, scenario_toml, scenarios
from kvmbench.scenario.simulation import host_of, task_rows
from kvmbench.tests.histories import reference
from kvmbench.tests.host_reference import HostReference

PROFILE = profiles()["patch-2017"]
POLICIES = list(policies())
MIX = {"outl_to_kernel": 3, "inl_from_qemu": 2, "mov_to_cr8": 1, "cpuid": 0.5}


def vm(**given):
    return Tasks(**{"name": "vm", "type": "vcpu", "count": 4, "guest_us": 20, "mix": MIX} | given)


def host(*tasks, **given):
    few = {"cpus": 3, "clock_hz": 10**9, "seconds": 0.004, "timeslice_us": 300, "epoch_us": 500}
    return Scenario(**{"name": "small", "tasks": tasks or (vm(),)} | few | given)


def state(result):
    machine = result.machine
    return [getattr(machine, name).tolist() for name in ("cpu", "task", "tss_map", "counters")]


# Random numbers


@pytest.mark.parametrize(
    ("counter", "key", "block"),
    [  # kat_vectors of Random123 1.14, philox4x64 10
        (
            "0000000000000000 0000000000000000 0000000000000000 0000000000000000",
            "0000000000000000 0000000000000000",
            "16554d9eca36314c db20fe9d672d0fdc d7e772cee186176b 7e68b68aec7ba23b",
        ),
        (
            "ffffffffffffffff ffffffffffffffff ffffffffffffffff ffffffffffffffff",
            "ffffffffffffffff ffffffffffffffff",
            "87b092c3013fe90b 438c3c67be8d0224 9cc7d7c69cd777b6 a09caebf594f0ba0",
        ),
        (
            "243f6a8885a308d3 13198a2e03707344 a4093822299f31d0 082efa98ec4e6c89",
            "452821e638d01377 be5466cf34e90c6c",
            "a528f45403e61d95 38c72dbd566e9788 a5a1610e72fd18b5 57bd43b5e52b7fe6",
        ),
    ],
)
def test_philox_known_answers(counter, key, block):
    words = [[int(word, 16) for word in text.split()] for text in (counter, key, block)]
    assert philox(*words[:2]) == words[2]


def test_philox_is_numpys():
    rng = random.Random(4)
    for _ in range(20):
        key = [rng.getrandbits(64), rng.getrandbits(64)]
        counter = [rng.getrandbits(64) for _ in range(4)]
        bits = np.random.Philox(key=np.array(key, np.uint64), counter=np.array(counter, np.uint64))
        counter[0] += 1  # numpy counts before it draws
        if counter[0] < 2**64:
            assert philox(counter, key) == bits.random_raw(4).tolist()


def test_exponential_has_its_mean_exactly():
    table, n = sampling.exponential(), sampling.QUANTILES
    assert sum(table) == n * sampling.ONE
    assert list(table) == sorted(table)
    for i in (0, 1, 500, n - 2):  # each entry lies between its quantiles
        low, high = -math.log1p(-i / n), -math.log1p(-(i + 1) / n)
        assert low < table[i] / sampling.ONE < high
    assert table[-1] / sampling.ONE == pytest.approx(math.log(n) + 1, abs=1e-4)
    spread = sum((value / sampling.ONE) ** 2 for value in table) / n - 1
    assert spread == pytest.approx(1, abs=0.003)  # variance


@pytest.mark.parametrize(
    "weights", [[1], [1, 1], [3, 0, 1], [0.1, 0.2, 0.7], [1e-9, 1, 5], [7] * 9]
)
def test_alias_table(weights):
    table = sampling.alias_table(weights)
    chance = [Fraction(0)] * len(weights)
    for i, (threshold, alias) in enumerate(table):
        assert 0 <= threshold < 2**32 or alias == i
        chance[i] += Fraction(threshold, 2**32)
        chance[alias] += 1 - Fraction(threshold, 2**32)
    total = sum(map(Fraction, weights))
    for found, weight in zip(chance, weights, strict=True):
        assert abs(found / len(weights) - Fraction(weight) / total) <= Fraction(1, 2**32)


# By hand


def test_one_vcpu_by_hand():
    # 1,000 cycles of guest, then a vmcall of 1,181: 250 more at the first entry. 100,000 cycles
    # are 45 such rounds and 1,000 + the start of the 46th exit.
    tasks = vm(count=1, guest_us=1, mix={"vmcall": 1}, times="fixed")
    scenario = host(tasks, cpus=1, seconds=0.0001, timeslice_us=1000, epoch_us=1000)
    result = scenario.run("deferred")
    rounds = math.ceil((100_000 - 2000 - 250) / 2181)  # after the switch and the host save
    assert rounds == 45
    last = 100_000 - 2000 - 250 - 44 * 2181
    assert last > 1000  # the last guest run fits, its exit ends past the time
    assert result.cycles == dict.fromkeys(CAUSES, 0) | {
        "guest": 45 * 1000,
        "exit": 45 * 1181,
        "host": 250,
        "switch": 2000,
    }
    assert result.costs == {1181: 44, 1431: 1}
    assert (result.counts["exits"], result.counts["switches"]) == (45, 1)
    assert result.operations == 1 + 2 * 45
    ops = scenario.ops(5, "deferred").tolist()
    assert ops == [
        (Op.SWITCH, 0, 0, 0, 0, 0),
        (Op.ADVANCE, 0, 0, 1000, 0, 0),
        (Op.EXIT, 0, 0, PROFILE.kind_index("vmcall"), 0, 0),
        (Op.ADVANCE, 0, 0, 1000, 0, 0),
        (Op.EXIT, 0, 0, PROFILE.kind_index("vmcall"), 0, 0),
    ]


def test_slices_by_hand():
    # Two plain tasks, slices of 10,000: switch 2,000, work 10,000, and so on; the last is cut.
    work = Tasks(name="work", type="plain", count=2)
    scenario = host(work, cpus=1, seconds=0.00005, timeslice_us=10, epoch_us=1000)
    ops = [row[:4] for row in scenario.ops(100, "eager").tolist()]
    turn = [(Op.SWITCH, 0, 0, 0), (Op.ADVANCE, 0, 0, 10000)]
    turn += [(Op.SWITCH, 0, 0, 1), (Op.ADVANCE, 0, 0, 10000)]
    assert ops == [*turn, *turn, (Op.SWITCH, 0, 0, 0)]
    result = scenario.run("eager")
    assert result.cycles["work"] == 40_000
    assert result.total == 50_000


def test_a_sleeper_by_hand():
    # Runs 1,000, sleeps 5,000: switch in 2,000, out 2,000; it wakes 5,000 after it fell asleep.
    work = Tasks(name="work", type="plain", count=1, run_us=1, sleep_us=5, times="fixed")
    scenario = host(work, cpus=1, seconds=0.000016, timeslice_us=10, epoch_us=1000)
    assert [row[3] for row in scenario.ops(100, "eager").tolist()] == [
        *(0, 1000, -1, 3000),  # 3,000, asleep at 3,000, out at 5,000, idle until 8,000
        *(0, 1000, -1, 3000),
    ]
    assert scenario.run("eager").cycles["idle"] == 6000


def test_io_by_hand():
    poll = Tasks(name="poll", type="io", count=2, work_us=1, times="fixed", port=0x80, ports=4)
    scenario = host(poll, cpus=2, seconds=0.00002, timeslice_us=10, epoch_us=1000)
    ops = scenario.ops(100, "deferred").tolist()
    assert [row[:5] for row in ops[:6]] == [
        *((Op.SWITCH, 0, 0, 0, 0), (Op.IOPERM, 1, 0, 0x80, 4), (Op.SWITCH, 0, 0, -1, 0)),
        *((Op.SWITCH, 0, 1, 1, 0), (Op.IOPERM, 1, 1, 0x84, 4), (Op.SWITCH, 0, 1, -1, 0)),
    ]
    ports = {row[2]: row[3] for row in ops if row[0] == Op.IO}
    assert ports == {0: 0x80, 1: 0x84}
    result = scenario.run("deferred")
    assert result.counts["io_allowed"] == sum(row[0] == Op.IO for row in ops) > 0
    assert (result.counts["leaks"], result.counts["denials"]) == (0, 0)


def test_percentiles_are_nearest_rank():
    result = host().run("eager")
    costs = sorted(Counter(result.costs).elements())
    for percent in ("50", "99", "99.9", "100", "0.1"):
        rank = math.ceil(Fraction(percent) * len(costs) / 100)
        assert result.percentile(percent) == costs[max(rank, 1) - 1]


# Against the reference


def small(seed):
    """Return a random small host."""
    rng = random.Random(seed)
    groups = []
    for i in range(rng.randint(1, 3)):
        type_ = rng.choice(("vcpu", "vcpu", "plain", "io"))
        sleeps = rng.random() < 0.5
        groups.append(
            Tasks(
                name=f"g{i}",
                type=type_,
                count=rng.randint(0, 5),
                guest_us=rng.choice((0.01, 3, 40)) if type_ == "vcpu" else None,
                work_us=rng.choice((0.5, 20)) if type_ == "io" else None,
                mix={k: rng.choice((0, 1, 2.5)) for k in MIX} | {"vmcall": 1}
                if type_ == "vcpu"
                else {},
                run_us=rng.choice((0.01, 50)) if sleeps else 0,
                sleep_us=rng.choice((0.01, 80)) if sleeps else 0,
                times=rng.choice(("fixed", "exponential", "exponential")),
                ioperm=rng.random() < 0.4,
                port=1000 * i,
                ports=rng.randint(1, 70),
            )
        )
    return host(
        *groups,
        cpus=rng.randint(1, 4),
        seconds=0.0008,
        timeslice_us=rng.choice((1, 30, 200)),
        epoch_us=rng.choice((20, 300)),
        migrations=rng.choice((0, 5000, 60_000)),
        ioperm_share=rng.choice((0, 0.5, 1)),
    )


@pytest.mark.parametrize("seed", range(24))
def test_the_reference_agrees(seed):
    scenario, policy = small(seed), policies()[POLICIES[seed % len(POLICIES)]]
    vendor = ("vmx", "svm")[seed % 3 == 0]
    model = reference(scenario.cpus, scenario.n_tasks, policy, PROFILE, vendor)
    expected = HostReference(scenario, model, PROFILE, seed)
    expected.run()
    ops = scenario.ops(len(expected.ops) + 10, policy, seed=seed, vendor=vendor)
    assert ops.tolist() == expected.ops
    result = scenario.run(policy, seed=seed, vendor=vendor, threads=2)
    clocks = [cpu.cycles for cpu in model.cpus]
    assert result.machine.cpu["cycles"].tolist() == clocks
    counters = [tuple(cpu.counters.values()) for cpu in model.cpus]
    assert result.machine.counters.tolist() == counters
    assert result.costs == dict(sorted(expected.costs.items()))
    assert result.operations == len(expected.ops)
    assert result.cycles["guest"] == expected.guest
    assert result.total == sum(clocks)


# Threads, and the same history as operations


def scaled(name):
    """Return a built-in scenario, a few of its epochs long."""
    scenario = scenarios()[name]
    return scenario.with_value("seconds", 0.012).with_value("epoch_us", 2500)


@pytest.mark.parametrize("name", sorted(scenarios()))
def test_any_number_of_threads_gives_the_same_bits(name):
    scenario = scaled(name).with_value("migrations", 5000).with_value("ioperm_share", 0.3)
    one, *others = (scenario.run("exit-to-user", threads=n) for n in (1, 2, 3))
    for other in others:
        assert state(other) == state(one)
        assert (other.costs, other.cycles) == (one.costs, one.cycles)
        assert (other.operations, other.useful) == (one.operations, one.useful)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", sorted(scenarios()))
def test_the_history_as_operations(name, policy):
    scenario = scaled(name).with_value("migrations", 1000)
    result = scenario.run(policy, threads=2)
    ops = scenario.ops(10**7, policy)
    assert len(ops) == result.operations
    machine = Machine(scenario.cpus, scenario.n_tasks, policy, PROFILE)
    machine.run(ops)
    for field in ("cpu", "task", "tss_map", "counters"):
        assert np.array_equal(getattr(machine, field), getattr(result.machine, field)), field
    for n in (0, 1, 777):
        assert scenario.ops(n, policy).tolist() == ops[:n].tolist()


def test_a_host_that_stops_early_stands_as_its_operations_left_it():
    scenario = scaled("ioperm-desktop")
    for n in (1, 5, 100, 1001):
        stopped = host_of(scenario, "deferred", "patch-2017", "vmx", None, 1)
        machine = Machine(scenario.cpus, scenario.n_tasks, "deferred", PROFILE)
        machine.run(stopped.record(n))
        for field in ("cpu", "task", "tss_map", "counters"):
            assert np.array_equal(getattr(machine, field), getattr(stopped.machine, field))


def test_the_machine_goes_on_after_a_scenario():
    scenario = scaled("oversubscribed")
    result = scenario.run("eager", threads=3)
    machine = Machine(scenario.cpus, scenario.n_tasks, "eager", PROFILE)
    machine.run(scenario.ops(10**7, "eager"))
    for m in (machine, result.machine):
        for cpu in range(scenario.cpus):
            m.exit(cpu, "inl_from_qemu")
            m.ioperm(cpu, 5, 1)
            m.switch(cpu, -1)
    assert machine.cpu.tolist() == result.machine.cpu.tolist()
    assert machine.counters.tolist() == result.machine.counters.tolist()
    assert result.machine.copy().counters.tolist() == machine.counters.tolist()


def test_a_policy_that_makes_and_drops_maps_at_each_exit():
    policy = policies()["eager"].__class__(
        "odd", vcpu_put=("drop_map", "alloc_map"), exit_to_user=("sync_map", "set_tif"),
        ioperm=("edit_map", "load_map"), switch=("copy_map", "wipe_map"),
    )  # fmt: skip
    scenario = scaled("io-heavy").with_value("ioperm_share", 0.5)
    one, two = (scenario.run(policy, threads=n) for n in (1, 3))
    assert state(one) == state(two)
    assert one.costs == two.costs
    machine = Machine(scenario.cpus, scenario.n_tasks, policy, PROFILE)
    machine.run(scenario.ops(10**7, policy))
    assert machine.counters.tolist() == one.machine.counters.tolist()


def test_many_kinds_have_their_weights():
    mix = {"cpuid": 1, "vmcall": 2, "outl_to_kernel": 5}
    result = host(vm(mix=mix, guest_us=1, times="fixed"), seconds=0.2).run("deferred")
    n = sum(result.costs.values())
    found = Counter()
    for cost, times in result.costs.items():
        kind = {0: "cpuid", 1: "vmcall", 2: "outl_to_kernel"}[
            [1291, 1181, 1391].index(cost if cost < 1400 else cost - 250)
        ]
        found[kind] += times
    for kind, weight in mix.items():
        share = weight / 8
        assert abs(found[kind] / n - share) < 5 * math.sqrt(share * (1 - share) / n)


# Worth


def test_worth_by_hand():
    # Fixed times and one kind: every exit to userspace saves gdt_write + ltr - mark = 480.
    one = vm(count=2, guest_us=5, mix={"inl_from_qemu": 1}, times="fixed")
    scenario = host(one, cpus=2, seconds=0.02, timeslice_us=1000)
    before, after = scenario.run("eager"), scenario.run("deferred")
    exits = before.counts["user_exits"]
    found = worth(before, after)
    assert found.percent == pytest.approx(100 * 480 * exits / before.total, rel=1e-2)
    assert found.cores == 10 * found.percent
    assert found.error < 1e-9
    same = worth(before, scenario.run("eager", threads=2))
    assert same.percent == 0


def test_worth_of_no_work():
    result = host(vm(count=0)).run("eager")
    assert worth(result, result).percent is None
    assert result.percentile("50") is None
    one = host(cpus=1)
    assert worth(one.run("eager"), one.run("deferred")).error is None


# Called from a program


def test_results_print_as_the_command():
    scenario = scenarios()["io-heavy"].with_value("seconds", 0.02)
    found = scenario.compare()
    assert found.worth == worth(scenario.run("eager"), scenario.run("deferred"))
    done = CliRunner().invoke(main, ["scenario", "io-heavy", "--seconds", "0.02"])
    assert done.stdout == f"{found}\n"
    assert (
        repr(found)
        == f"<Comparison eager -> deferred on io-heavy: {found.worth[0]:+.4f} % of CPU time>"
    )
    assert repr(found.after).startswith("<ScenarioResult io-heavy under deferred: ")
    assert "cost profile patch-2017" in found._repr_html_()
    (alone,) = found.before.records()
    (both,) = found.records()
    assert alone["share_tr"] == both["share_tr_before"] == found.before.share("tr")
    assert both["percent"] == found.worth.percent
    assert found.record() == both
    assert found.before.record() == alone
    assert "eager, simulated host io-heavy" in str(found.before)


@pytest.mark.parametrize("threads", [1, 3, 9])  # fewer and more than the 4 runs
def test_a_sweep_is_its_comparisons(threads):
    swept = host().sweep("vm.count", [1, 3], "every-exit", seed=2, threads=threads)
    assert repr(swept) == "<Sweep of vm.count on small: 2 values>"
    assert [record["vm.count"] for record in swept.records()] == [1, 3]
    for count, point in zip((1, 3), swept.comparisons, strict=True):
        alone = host().with_value("vm.count", count).compare("every-exit", seed=2)
        assert point.record() == alone.record()
    with pytest.raises(ValueError, match="values is empty"):
        host().sweep("cpus", [])
    with pytest.raises(ValueError, match=r"^cpus is 0, not in 1 to"):
        host().sweep("cpus", [1, 0])


@pytest.mark.parametrize("threads", [1, 2])
def test_progress_goes_from_0_to_1_over_all_runs(threads):
    seen = []
    host(seconds=0.05).sweep("cpus", [1, 2], threads=threads, progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 1
    assert threads == 2 or {0.25, 0.5, 0.75} <= set(seen)


def test_results_that_cannot_be_compared():
    before = host().run("eager")
    for other in (host(cpus=2).run("eager"), host().run("eager", vendor="svm")):
        with pytest.raises(IncompatibleError, match="before and after have different"):
            Comparison(before, other)


def test_policies_and_profiles_from_files(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('[mine]\nvcpu_put = [["reload"]]\n')
    assert host().run(path).policy.name == "mine"
    profile = tmp_path / "costs.toml"
    profile.write_text('name = "dear"\nextends = "patch-2017"\n[costs]\nltr = 999\n')
    assert host().run(str(path), profile).profile.costs.ltr == 999


def test_signals_stay_as_they_were_and_any_thread_may_run():
    old = signal.getsignal(signal.SIGINT)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    expected = host().run("eager", threads=2)
    assert signal.getsignal(signal.SIGINT) is old
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == mask
    with ThreadPoolExecutor(1) as pool:
        assert state(pool.submit(host().run, "eager").result()) == state(expected)


# Declarations


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cpus": 0}, r"^cpus is 0, not in 1 to 65536$"),
        ({"cpus": 1.5}, r"^cpus is 1.5, not an integer$"),
        ({"cpus": True}, r"^cpus is True, not a number$"),
        ({"seconds": float("nan")}, r"^seconds is nan"),
        ({"seconds": 0}, r"^seconds is 0 cycles, not in 1 to \d+$"),
        ({"timeslice_us": 0}, r"^timeslice_us is 0 cycles, not in 1 to 2147483647$"),
        ({"timeslice_us": 2_200_000}, r"^timeslice_us is 2200000000 cycles, not in"),
        ({"epoch_us": 1e9}, r"^epoch_us is"),
        ({"ioperm_share": 1.01}, r"^ioperm_share is 1.01, not in 0 to 1$"),
        ({"migrations": -1}, r"^migrations is -1, not in 0"),
        ({"seed": 2**64}, r"^seed is 18446744073709551616, not in 0"),
        ({"name": ""}, r"^name is '', not 1 to 100 printable characters$"),
        ({"name": "n" * 101}, r"^name is 'n+\.\.\.n+', not 1 to 100 printable"),
        ({"cpus": 10**400}, r"^cpus is 9*10*\.\.\.0+, not in 1 to 65536$"),
        ({"cpus": 1 << 20000}, r"^cpus is an integer of about 6,021 digits, not in 1 to 65536$"),
        ({"seconds": float("inf")}, r"^seconds is inf, not in 0 to"),
        ({"seed": "1" * 1000}, r"^seed is '1+\.\.\.1+', not a number$"),
        ({"tasks": [vm(name=f"g{i}", count=2**20) for i in "ab"]}, r"^tasks: 2,097,152 in all"),
        ({"tasks": (vm(), vm())}, r"^tasks: two groups are named 'vm'$"),
        ({"tasks": (vm(guest_us=0),)}, r"^tasks: vm: no time between exits"),
        ({"tasks": (vm(ioperm=True, port=65530),)}, r"ports go past port 65535$"),
    ],
)  # fmt: skip
def test_scenarios_that_are_refused(change, message):
    with pytest.raises((TypeError, ValueError), match=message):
        host(**{"tasks": (vm(),)} | change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"type": "vcp"}, r"^type unknown type 'vcp'; did you mean 'vcpu'\?$"),
        ({"times": "normal"}, r"^times unknown times 'normal'"),
        ({"count": -1}, r"^count is -1, not in 0"),
        ({"mix": {}}, r"^mix needs a weight above 0$"),
        ({"mix": {"cpuid": -1}}, r"^mix: weight of 'cpuid' is -1"),
        ({"mix": {"cpuid": 10**400}}, r"^mix: weight of 'cpuid' is 10*\.\.\.0+, not a finite"),
        ({"mix": {"cpuid": float("nan")}}, r"^mix: weight of 'cpuid' is nan, not a finite"),
        ({"guest_us": 10**400}, r"^guest_us is 10*\.\.\.0+, not in 0 to"),
        ({"mix": 3}, r"^mix is 3, not a table of weights$"),
        ({"guest_us": None}, r"^guest_us is missing, which type vcpu needs$"),
        ({"work_us": 1}, r"^work_us is for type io, not vcpu$"),
        ({"type": "plain"}, r"^guest_us is for type vcpu, not plain$"),
        ({"type": "plain", "guest_us": None}, r"^mix not for plain$"),
        ({"run_us": 1}, r"^run_us and sleep_us go together"),
        ({"ioperm": 1}, r"^ioperm is 1, not true or false$"),
        ({"ports": 0}, r"^ports is 0, not in 1 to 65536$"),
        ({"port": 65536}, r"^port is 65536, not in 0 to 65535$"),
    ],
)
def test_tasks_that_are_refused(change, message):
    with pytest.raises((TypeError, ValueError), match=message):
        vm(**change)


def test_an_exit_kind_that_the_profile_lacks():
    with pytest.raises(ValueError, match=r"^task group 'vm' needs exit kind 'hlt', which profile"):
        host(vm(mix={"hlt": 1})).run("eager")


def test_threads_out_of_range():
    for n in (0, 257):
        with pytest.raises(ValueError, match=f"^threads is {n}, not in 1 to 256$"):
            host().run("eager", threads=n)
        with pytest.raises(ValueError, match=f"^threads is {n}, not"):
            host().sweep("cpus", [1], threads=n)
    with pytest.raises(ValueError, match=r"^n is -1"):
        host().ops(-1, "eager")


def test_values_by_name():
    scenario = host()
    assert scenario.with_value("vm.guest_us", 7).tasks[0].guest_us == 7
    assert scenario.with_value("cpus", 8.0).cpus == 8
    assert {"cpus", "ioperm_share", "vm.count"} <= set(scenario.parameters())
    for name in ("name", "tasks", "vm.mix", "vm.type", "vm", "x.count"):
        with pytest.raises(ValueError, match=f"^unknown parameter '{name}'"):
            scenario.with_value(name, 1)


def test_pickle():
    for scenario in (host(), *scenarios().values()):
        assert pickle.loads(pickle.dumps(scenario)) == scenario
        assert hash(scenario) == hash(pickle.loads(pickle.dumps(scenario)))


def test_more_holders_keep_the_fewer():
    sets = []
    for share in (0, 0.25, 0.5, 1):
        rows = task_rows(host(vm(count=400), cpus=8, ioperm_share=share))
        held = set(np.flatnonzero(rows[:, 3]).tolist())
        assert abs(len(held) - 400 * share) <= 2
        on = Counter(int(rows[i, 1]) for i in held)
        assert all(abs(on[cpu] - 50 * share) <= 6 for cpu in range(8))
        sets.append(held)
    assert all(a <= b for a, b in pairwise(sets))


@pytest.mark.parametrize("threads", [1, 3])
def test_a_run_that_is_stopped(threads):
    class Stop(Exception):
        pass

    def progress(share):
        assert 0 <= share <= 1
        raise Stop

    before = threading.active_count()
    with pytest.raises(Stop):
        scenarios()["io-heavy"].with_value("seconds", 10**5).run(
            "eager", threads=threads, progress=progress
        )
    with pytest.raises(Stop):
        scenarios()["io-heavy"].sweep("seconds", [10**5, 10**4], threads=2, progress=progress)
    assert threading.active_count() == before


def test_ctrl_c_ends_a_run_of_the_calling_thread():
    before = threading.active_count()
    timer = threading.Timer(0.2, signal.raise_signal, [signal.SIGINT])
    # A test run in the background of a shell has SIGINT ignored.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            scenarios()["io-heavy"].with_value("seconds", 10**5).run("eager")
        timer.join()
    finally:
        signal.signal(signal.SIGINT, handler)
    assert threading.active_count() == before


def test_pauses_change_nothing():
    scenario = scaled("oversubscribed").with_value("migrations", 1000)
    paused = host_of(scenario, "deferred", "patch-2017", "vmx", None, 1)
    paused.begin()
    pauses = 0
    while paused.work(0, 1e-9):  # after each CPU of each epoch
        pauses += 1
    paused.finish()
    assert pauses >= scenario.cpus
    expected = scenario.run("deferred", threads=2)
    assert paused.machine.counters.tolist() == expected.machine.counters.tolist()
    assert (paused.costs, paused.operations) == (expected.costs, expected.operations)
    with pytest.raises(ValueError, match="a host of several workers has no pause"):
        host_of(scenario, "deferred", "patch-2017", "vmx", None, 2).work(0, 1)


def test_a_result_without_its_machine():
    small, whole = host().run("eager", keep_machine=False), host().run("eager")
    assert small.machine is None
    assert whole.machine is not None
    assert b"Machine" not in pickle.dumps(small)
    compared = host().compare("deferred", "eager")
    assert compared.after.machine is None
    assert str(small) == str(whole)
    assert worth(small, compared.before) == worth(whole, compared.before)


@pytest.mark.parametrize(("us", "hz"), [(0.5, 10**6), (1.5, 10**6), (1 / 3, 3 * 10**8), (7, 3)])
def test_cycles_are_rounded_as_python_rounds(us, hz):
    scenario = host(clock_hz=hz, timeslice_us=10**6, epoch_us=10**6, seconds=1000,
                    tasks=(vm(guest_us=10**6),))  # fmt: skip
    assert scenario.cycles(us) == round(Fraction(us) * hz / 10**6)


def test_a_host_runs_once():
    made = host_of(host(), "eager", "patch-2017", "vmx", None, 1)
    made.record(3)
    with pytest.raises(RuntimeError, match="this Host has run"):
        made.record(3)
    used = made.machine
    assert used.cpu["cycles"].any()
    with pytest.raises(ValueError, match="not at its start"):
        Host(used, [], np.zeros((4, 4), np.int64), timeslice=1, epoch=1, end=1, migrations=0,
             hz=1, seed=0)  # fmt: skip


# Files


@pytest.mark.parametrize("name", [*scenarios()])
def test_a_scenario_as_its_file(name, tmp_path):
    path = tmp_path / "again.toml"
    path.write_text(scenario_toml(scenarios()[name].with_value("ioperm_share", 0.1)))
    assert load_scenario(path) == scenarios()[name].with_value("ioperm_share", 0.1)


FILE = """\
name = "mine"
cpus = 2
clock_hz = 1_000_000_000
seconds = 0.001
timeslice_us = 100

[[tasks]]
name = "vm"
type = "vcpu"
count = 2
guest_us = 10
[tasks.mix]
cpuid = 1
"""


def test_a_file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(FILE)
    scenario = load_scenario(path)
    assert (scenario.name, scenario.cpus, scenario.n_tasks) == ("mine", 2, 2)
    assert scenario.run("eager").counts["exits"] > 0


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("cpus = 2", "cpus = 0", ":2: cpus: 0, not in 1 to 65536"),
        ("cpus = 2", "cpu = 2", ":2: cpu: unknown key 'cpu'; did you mean 'cpus'?"),
        ("cpus = 2\n", "", ": 'cpus' is missing"),
        ("count = 2", "count = 'x'", ":10: tasks: entry 1: count: 'x', not a number"),
        ("count = 2\n", "", ":7: tasks: entry 1: 'count' is missing"),
        ("vcpu", "vcp", ":9: tasks: entry 1: type: unknown type 'vcp'; did you mean 'vcpu'?"),
        ("cpuid = 1", "cpuid = 0", ":12: tasks: entry 1: mix: needs a weight above 0"),
        ("= 100", "= = 100", ":5: not TOML: Invalid value"),
        ("seconds = 0.001", "seconds = true", ":4: seconds: True, not a number"),
        (
            "seconds = 0.001",
            "seconds = " + "[" * 300 + "]" * 300,
            ":4: seconds: [[[[...]]]], not a number",
        ),
        (
            "cpus = 2",
            "cpus = 0x" + "f" * 6000,
            ":2: a number of over 100 characters",
        ),
    ],
)
def test_files_that_are_wrong(tmp_path, old, new, message):
    path = tmp_path / "mine.toml"
    path.write_text(FILE.replace(old, new))
    with pytest.raises(FileError) as caught:
        load_scenario(path)
    assert str(caught.value) == f"{path}{message}"


def test_nulls_are_shown():
    """A sync of TIF without a map at each VM exit: as many nulls as exits."""
    policy = Policy("p", vm_exit=("set_tif", "sync_map"))
    result = host(vm(mix={"cpuid": 1})).run(policy)
    exits = result.counts["exits"]
    assert result.counts["nulls"] == exits > 0
    assert f"nulls count {exits:,}" in " ".join(str(result).split())
    (record,) = result.records()
    assert (record["nulls"], record["leaks"]) == (exits, 0)


def test_built_in_scenarios():
    assert set(scenarios()) == {
        *("quiet-host", "oversubscribed", "ioperm-desktop", "io-heavy", "ipi-storm")
    }
    for scenario in scenarios().values():
        assert scenario.about
        result = scenario.with_value("seconds", 0.02).run("deferred")
        assert all(result.counts[name] == 0 for name in WRONG)
        assert result.share("guest") > 0.05
