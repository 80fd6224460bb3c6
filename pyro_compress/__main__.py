"""`python -m pyro_compress`: the command line."""

from pyro_compress.cli.app import main

if __name__ == "__main__":
    main()
