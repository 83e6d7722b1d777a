"""`python -m fmicl_cli` is the `fmicl` command."""

from fmicl_cli.main import main

if __name__ == "__main__":
    main()
