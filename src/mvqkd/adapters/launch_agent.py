"""torch's elastic launcher as a child that never outlives its parent; run with ``python -m``.

One whose parent was killed would train on, unseen, and write beside the next one.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Run ``torch.distributed.run`` until it ends, or until the process ``arguments[0]`` does."""
    parent, *rest = arguments
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != int(parent):
            sys.exit(128 + signal.SIGTERM)  # it ended before the kernel was told
    from torch.distributed.run import main as run

    run(rest)


if __name__ == "__main__":
    main(sys.argv[1:])
