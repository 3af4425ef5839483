"""`python -m hopwall_cli` is the `hopwall` command."""

from hopwall_cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
