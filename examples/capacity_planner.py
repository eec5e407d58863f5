"""A capacity planner: the cores that a change of policy frees in a fleet of hosts.

pip install kvmbench pandas
python capacity_planner.py
"""

from concurrent.futures import ProcessPoolExecutor
from itertools import product

import pandas as pd

from kvmbench import load_scenario

FLEET = {"oversubscribed": 400, "io-heavy": 120, "ioperm-desktop": 25}  # hosts of each shape
POLICIES = ["deferred", "exit-to-user"]
SECONDS = 0.05  # simulated, per host


def plan(job):
    """Simulate one shape of host under one policy; return a row of the table."""
    shape, policy = job
    host = load_scenario(shape).with_value("seconds", SECONDS)
    worth = host.compare("eager", policy).worth
    freed = worth.percent / 100 * host.cpus
    return {"host": shape, "policy": policy, "hosts": FLEET[shape], "cores": freed * FLEET[shape]}


def table(workers=None):
    """Return the cores that each policy frees, one row per shape of host."""
    jobs = list(product(FLEET, POLICIES))
    with ProcessPoolExecutor(workers) as pool:
        rows = pd.DataFrame(pool.map(plan, jobs))
    return rows.pivot(index="host", columns="policy", values="cores").loc[list(FLEET)]


def main():
    cores = table()
    print(cores.round(3).to_string())
    print("\ncores freed in all:", cores.sum().round(2).to_dict())


if __name__ == "__main__":
    main()
