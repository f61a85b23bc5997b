"""What people run besides snakemake: `persuasion-rl COMMAND`."""

import argparse
import sys

from persuasion_rl.files import UserError


def main(words: list[str] | None = None) -> None:
    """The console script; a UserError ends in one line, exit 1."""
    parser = argparse.ArgumentParser(prog="persuasion-rl", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    compare = commands.add_parser("compare", help="what differs between two studies")
    compare.add_argument("one", metavar="STUDY", help="a name under results/, or a folder")
    compare.add_argument("other", metavar="STUDY")
    compare.set_defaults(run=_compare)
    given = vars(parser.parse_args(words))
    run = given.pop("run")
    given.pop("command")
    try:
        run(**given)
    except (UserError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")


def _compare(one: str, other: str) -> None:
    from persuasion_rl.studies import compare_studies

    print(compare_studies(one, other), end="")


if __name__ == "__main__":
    main()
