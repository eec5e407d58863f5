"""What the benchmarks' JSON says of the machine, less the name of the host."""


def pytest_benchmark_update_machine_info(config, machine_info):
    machine_info.pop("node", None)
