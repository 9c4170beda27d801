"""``python -m graphene_function``: a pool's process, a development server, or a search for leaks."""

import os
import sys


def main() -> int:
    """Choose by the environment: the watchdog passes its socket in ``pool_fd``."""
    fd = os.environ.pop("pool_fd", "")
    if fd:
        from .zygote import run

        return run(int(fd))
    if sys.argv[1:2] == ["leaks"]:
        from .leaks import main as leaks

        return leaks(sys.argv[2:])
    from .serve import main as serve

    return serve(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
