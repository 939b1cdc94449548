"""`python -m replication.consensus`: a short session in one process."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from replication.consensus.demo import MAX_DEMO_VOTERS, run_demo
from replication.consensus.errors import InvalidRequestError

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a demonstration session and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m replication.consensus",
        description="Play a short voting session in one process: three proposals, their votes and decisions.",
    )
    parser.add_argument(
        "--voters", type=int, default=5, metavar="N", help=f"voters, 1 to {MAX_DEMO_VOTERS} (default 5)"
    )
    parser.add_argument(
        "--byzantine", action="store_true", help="as many voters as tolerated vote against the honest ones"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    options = parser.parse_args(arguments)
    try:
        print(run_demo(options.voters, options.byzantine, options.json))
    except InvalidRequestError as error:
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
