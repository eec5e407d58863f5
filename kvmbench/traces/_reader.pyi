import numpy as np
from numpy.typing import NDArray
from typing_extensions import disjoint_base

__all__ = ["Reader"]

@disjoint_base
class Reader:
    @property
    def names(self) -> list[str]: ...
    @property
    def unread(self) -> dict[str, int]: ...
    @property
    def lines(self) -> int: ...
    def feed(self, data: bytes, last: bool = False) -> NDArray[np.void]: ...
