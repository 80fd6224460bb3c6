"""Put files of finished runs into the package, with their cards, and write the page of all that is shipped.

python -m benchmarks.ship runs/lenet-5-log-uniform-seed0 …
"""

import argparse
from pathlib import Path

from pyro_compress.pipeline.cards import ship
from pyro_compress.pipeline.run_directory import RunDirectory


def main() -> None:
    """Each run in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    for path in parser.parse_args().runs:
        print(ship(RunDirectory(path)))


if __name__ == "__main__":
    main()
