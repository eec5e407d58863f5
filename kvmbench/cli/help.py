"""The commands, and what `kvmbench --help` prints of them, without click.

`kvmbench.__main__` prints it; the group of commands, the site and the man pages read it.
"""

COMMANDS = {  # name: (file of kvmbench/cli, its line in --help)
    "run": ("run", "Simulate workloads under two policies."),
    "measure": ("measure", "Measure workloads on this host, through /dev/kvm."),
    "profile": ("profile", "Make a cost profile from measured rows."),
    "scenario": ("scenario", "Simulate a whole host under two policies."),
    "sweep": ("sweep", "Simulate many points: policies, costs, hosts, seeds."),
    "trace": ("trace", "Read recorded VM exits: count, replay, make a scenario."),
    "check": ("check", "Explore every interleaving of a policy: is it safe?"),
    "compare": ("compare", "Compare results, row by row, with a verdict."),
    "history": ("history", "Find which commit changed which row, over many results."),
    "collect": ("collect", "Write the results of many hosts, or of many days, to one file."),
    "self-test": ("self_test", "Compare a result with itself: the A/A test of a host."),
    "plan": ("plan", "Measure two kernels in turn, across reboots."),
    "host": ("host", "Report whether this host is fit to measure, with remedies."),
    "check-io": ("check_io", "Compare the port check with guests on /dev/kvm."),
    "lab": ("lab", "Boot real kernels on an emulated CPU and count work per VM exit."),
    "list": ("list", "List workloads, policies, cost profiles, results and other names."),
    "show": ("show", "Print the thing of a name, or a file."),
    "save": ("save", "Keep the last measurement, or any result, under a name."),
    "convert": ("convert", "Write a result file in another format."),
    "schema": ("schema", "Print the JSON Schema of the JSON that kvmbench writes."),
    "completion": ("completion", "Print the shell's completion script."),
}

ABOUT = """\
Benchmark KVM's VM exits: simulated, measured, compared, checked.

\b
Examples:
  kvmbench run                               the table of the 2017 TR patch
  kvmbench run --explain inl_from_qemu       where its cycles go
  kvmbench run --before every-exit           the changelog's literal sentence
  kvmbench run --against patch-2017          predicted and published changes
  kvmbench measure                           measured on this host
  kvmbench scenario oversubscribed           the worth of the patch to a host
  kvmbench sweep design.toml -o p.jsonl      many points, on all cores
  kvmbench check deferred                    every interleaving: is it safe
  kvmbench compare before.json after.json    which rows moved, how surely
  kvmbench list policies
  kvmbench show deferred

The environment can set each option: KVMBENCH_RUN_AFTER sets --after of
`run`. Exit codes: 0 done, 1 failed, 2 usage, 130 stopped by Ctrl-C;
`compare` and `check` have more.
"""
"""The command's help as click takes it: \\b keeps the lines of a paragraph."""

OPTIONS = {
    "-V, --version": "Show the version and exit.",
    "-h, --help": "Show this message and exit.",
}


def help_text() -> str:
    """Return the help, in lines of at most 80 columns."""
    lines = ["Usage: kvmbench [OPTIONS] COMMAND [ARGS]...", ""]
    lines += [f"  {line}".rstrip() for line in ABOUT.splitlines() if line != "\b"]
    abouts = {name: about for name, (_, about) in COMMANDS.items()}
    for heading, entries in (("Options", OPTIONS), ("Commands", abouts)):
        width = max(map(len, entries))
        lines += ["", f"{heading}:"]
        lines += [f"  {name:{width}}  {about}" for name, about in entries.items()]
    return "\n".join(lines) + "\n"
