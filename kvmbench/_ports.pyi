from typing import SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["port_check"]

def port_check(
    tr_limit: SupportsIndex,
    io_base: SupportsIndex,
    tss_map: ArrayLike,
    ports: ArrayLike,
    widths: ArrayLike,
    iopl: SupportsIndex = 0,
) -> NDArray[np.bool_]: ...
