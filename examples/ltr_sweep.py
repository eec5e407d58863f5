"""How much the deferred reload saves as LTR grows dearer, as a plot.

pip install kvmbench matplotlib
python ltr_sweep.py ltr.svg
"""

import sys

from matplotlib.figure import Figure

from kvmbench import profiles, simulate

ROWS = ["inl_from_qemu", "inl_from_pmtimer", "inl_from_kernel"]
COSTS = range(0, 1001, 100)  # cycles of one LTR


def sweep(rows=ROWS, costs=COSTS):
    """Return the saving in percent for each row, one value per cost of LTR."""
    base = profiles()["patch-2017"]
    saved = {row: [] for row in rows}
    for ltr in costs:
        profile = base.with_costs(ltr=ltr, source="the axis of this sweep")
        for record in simulate(rows, "eager", "deferred", profile, iterations=1).records():
            saved[record["workload"]].append(0 - record["percent"])
    return saved


def plot(saved, path, costs=COSTS):
    """Write the curves to `path`; its ending chooses the format."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for row, percent in saved.items():
        axes.plot(costs, percent, marker="o", label=row)
    axes.set(xlabel="LTR, cycles", ylabel="saved by deferring the reload, %")
    axes.legend()
    figure.savefig(path)


def main():
    path = sys.argv[1] if len(sys.argv) > 1 else "ltr.svg"
    saved = sweep()
    plot(saved, path)
    for row, percent in saved.items():
        low, high = f"{percent[0]:5.1f} % at {COSTS[0]}", f"{percent[-1]:6.1f} % at {COSTS[-1]}"
        print(f"{row:18}{low} cycles{high}")


if __name__ == "__main__":
    main()
