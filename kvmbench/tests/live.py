"""For tests that measure for real: they skip, with the reason, where that is not possible."""

import pytest

from kvmbench.live.machine import why_not

needs_kvm = pytest.mark.skipif(why_not() is not None, reason=why_not() or "")
