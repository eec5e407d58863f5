from collections.abc import Sequence
from typing import SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray
from typing_extensions import disjoint_base

from kvmbench._core import Machine

__all__ = ["TYPES", "Host", "philox"]

TYPES: tuple[str, ...]

def philox(counter: Sequence[int], key: Sequence[int]) -> list[int]: ...

@disjoint_base
class Host:
    @property
    def machine(self) -> Machine: ...
    def __init__(
        self,
        machine: Machine,
        groups: Sequence[tuple[str, int, int, int, bool, Sequence[tuple[int, float]]]],
        tasks: ArrayLike,
        *, timeslice: SupportsIndex, epoch: SupportsIndex, end: SupportsIndex,
        migrations: SupportsIndex, hz: SupportsIndex, seed: SupportsIndex,
        workers: SupportsIndex = 1,
    ) -> None: ...  # fmt: skip
    def begin(self) -> None: ...
    def work(self, worker: int, seconds: float = 0.0) -> bool: ...
    def stop(self) -> None: ...
    def finish(self) -> None: ...
    def record(self, n: int) -> NDArray[np.void]: ...
    @property
    def costs(self) -> dict[int, int]: ...
    @property
    def guest_outside(self) -> NDArray[np.uint64]: ...
    @property
    def operations(self) -> int: ...
    @property
    def share_done(self) -> float: ...
