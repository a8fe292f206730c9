"""`python -m morlaif` is `morlaif`."""

from morlaif.cli import main

if __name__ == "__main__":
    main()
