"""How often a history finds the steps that it has, and steps that it has not.

`python -m kvmbench.tests.step_rates` prints the table of docs/history.md (minutes); the tests run
fewer histories of it.
"""

import sys

import numpy as np

from kvmbench.comparison.steps import place_interval, segments

RESULTS = 60
NOISES = ("normal", "t3", "outliers", "rounded", "AR(1) 0.3")


def noise(kind, rng, sd, results=RESULTS):
    """Return the noise of a history in percent; all but the outliers have the deviation `sd`."""
    if kind == "t3":  # Student's, three degrees of freedom
        return rng.standard_t(3, results) * sd / np.sqrt(3)
    if kind == "outliers":  # one result of 20 is 2 to 10 % slower
        slow = rng.random(results) < 0.05
        return rng.normal(0, sd, results) + slow * rng.uniform(2, 10, results)
    if kind == "rounded":  # to whole cycles of 1,200
        return np.round(12 * rng.normal(0, sd, results)) / 12
    found = rng.normal(0, sd, results)
    if kind == "AR(1) 0.3":
        for number in range(1, results):
            found[number] = 0.3 * found[number - 1] + np.sqrt(1 - 0.3**2) * found[number]
    return found


def rates(kind, sd, step, histories, seed=1):
    """Return the shares of histories of 60 results, with a step of `step` percent.

    They are: with a step found (within 2 results of the true one, if there is one), with others
    found, found at the very result, and with the true one in the 95 % interval of the place.
    """
    rng = np.random.default_rng(seed)
    found, others, exact, covered = 0, 0, 0, 0
    for _ in range(histories):
        at = int(rng.integers(10, RESULTS - 9))
        values = 100 + noise(kind, rng, sd)
        values[at:] += step
        places = segments(values)
        near = [place for place in places if abs(place - at) <= 2 and step]
        found += bool(near if step else places)
        others += len(places) > len(near)
        if near:
            exact += at in places
            bounds = [0, *places, RESULTS]
            number = bounds.index(near[0])
            low, high = bounds[number - 1], bounds[number + 1]
            first, last = place_interval(values[low : near[0]], values[near[0] : high])
            covered += first <= at - near[0] <= last
    return tuple(n / histories for n in (found, others, exact, covered))


def returned(sd, length, step, histories, seed=1):
    """Return the share of histories in which a step that ends after `length` results is found."""
    rng = np.random.default_rng(seed)
    hits = 0
    for _ in range(histories):
        at = int(rng.integers(10, RESULTS - length - 9))
        values = 100 + rng.normal(0, sd, RESULTS)
        values[at : at + length] += step
        places = segments(values)
        hits += len(places) == 2 and max(np.abs(np.subtract(places, (at, at + length)))) <= 2
    return hits / histories


def delay(sd, step, before, histories, seed=1):
    """Return how many results after a step find it: the median, and the 95 % quantile."""
    rng = np.random.default_rng(seed)
    waits = []
    for _ in range(histories):
        values = 100 + rng.normal(0, sd, before + 30)
        values[before:] += step
        ends = range(before + 1, before + 31)
        waits.append(next((end - before for end in ends if segments(values[:end])), 31))
    return tuple(int(q) for q in np.quantile(waits, [0.5, 0.95], method="higher"))


def main(histories):
    """Print the tables."""
    print("| noise | sd | quiet, a step found | 1 % found | 2 % found | 2 % at its result |")
    print("| :-- | --: | --: | --: | --: | --: |")
    for kind in NOISES:
        for sd in (0.3, 0.4):
            quiet, one, two = (rates(kind, sd, step, histories) for step in (0, 1, 2))
            shares = (quiet[0], one[0], two[0], two[2])
            print(f"| {kind} | {sd} % | {' | '.join(f'{share:.3f}' for share in shares)} |")
            print(f"  others 1 %, 2 %: {one[1]:.3f} {two[1]:.3f}, cover {one[3]:.3f} {two[3]:.3f}",
                  file=sys.stderr, flush=True)  # fmt: skip
    for length in (5, 6, 8, 12, 20):
        print(f"back after {length}: {returned(0.3, length, 2, histories // 2):.3f}", flush=True)
    for before in (20, 30, 60):
        for step in (1, 2):
            print(f"delay, {before} before, {step} %:", delay(0.3, step, before, 100), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
