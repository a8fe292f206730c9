"""`python -m morlaif` is `morlaif`: a signal finds this process ready before the rest of it is there."""

from morlaif.signals import end_in_order


def main() -> None:
    end_in_order()
    from morlaif.cli import main as run

    run()


if __name__ == "__main__":
    main()
