"""`python -m protrna_cli` is the `protrna` command."""

from protrna_cli.cli.main import main

if __name__ == "__main__":
    main()
