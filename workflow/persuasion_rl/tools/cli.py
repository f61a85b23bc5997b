"""The commands that people run besides snakemake: `persuasion-rl COMMAND`."""

import argparse
import os
import sys
from pathlib import Path

from persuasion_rl.files import UserError
from persuasion_rl.study.recorded import recorded_config, study_folder

CHECKOUT = "PERSUASION_RL_CHECKOUT"
"""The environment variable of a restarted process, with the package that it should import."""


def main(words: list[str] | None = None) -> None:
    """The console script; a UserError ends it with one line and exit status 1."""
    if words is None:
        _start_with_the_checkouts_package()
    parser = argparse.ArgumentParser(prog="persuasion-rl", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    compare = commands.add_parser("compare", help="what differs between two studies")
    compare.add_argument("one", metavar="STUDY", help="a name under results/, or a folder")
    compare.add_argument("other", metavar="STUDY")
    compare.set_defaults(run=_compare)
    annotate = commands.add_parser("annotate", help="the page on which people label the human pool")
    annotate.add_argument("--study", required=True, help="a name under results/, or a folder")
    annotate.add_argument(
        "--host", default="127.0.0.1", help="beyond loopback a token is asked for"
    )
    annotate.add_argument("--port", type=int, default=7860, help="0: any free one")
    annotate.add_argument(
        "--arena", action="store_true", help="the arena alone, also where annotators are simulated"
    )
    annotate.set_defaults(run=_annotate)
    chat = commands.add_parser("chat", help="a conversation with a model in the terminal")
    chat.add_argument("--study", required=True, help="a name under results/, or a folder")
    chat.add_argument("--model", required=True)
    chat.set_defaults(run=_chat)
    for name, run, what in (
        (
            "export-answers",
            _export,
            "pairs and people's answers as .jsonl, .csv, or .json for Label Studio (its interface beside it, as .xml)",
        ),
        ("import-answers", _import, "answers that were given elsewhere, from such a file"),
    ):
        moving = commands.add_parser(name, help=what)
        moving.add_argument("--study", required=True, help="a name under results/, or a folder")
        moving.add_argument("file", type=Path)
        moving.set_defaults(run=run)
    doctor = commands.add_parser(
        "doctor", help="what this machine can run of a study, and what to do next"
    )
    doctor.add_argument("--configfile", type=Path, default=Path("config/config.yaml"))
    doctor.set_defaults(run=_doctor)
    why = commands.add_parser("why", help="why a file would be made again, and what it would cost")
    why.add_argument("target", metavar="FILE", help="a file under results/, or a target")
    why.add_argument("--configfile", type=Path)
    why.set_defaults(run=_why)
    arguments = vars(parser.parse_args(words))
    run = arguments.pop("run")
    arguments.pop("command")
    try:
        run(**arguments)
    except (UserError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        if error.filename is None:
            raise
        sys.exit(f"error: {error.filename}: {error.strerror}")


def _start_with_the_checkouts_package() -> None:
    """Restart this process with the checkout's package, if the current folder is a checkout with another package.

    The Snakefile also uses the checkout's own package, and its jobs depend on that code.
    """
    place = Path("workflow").resolve()
    package = place / "persuasion_rl"
    started_for = os.environ.pop(CHECKOUT, None)
    is_checkout = Path("Snakefile").is_file() and (package / "tools/cli.py").is_file()
    if not is_checkout or package == Path(__file__).resolve().parents[1]:
        return
    if started_for == str(place):
        return  # another package still comes first after the restart
    before = filter(None, [str(place), os.environ.get("PYTHONPATH")])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(before), CHECKOUT: str(place)}
    command = [sys.executable, "-P", "-m", "persuasion_rl.tools.cli", *sys.argv[1:]]
    os.execve(sys.executable, command, environment)


def _compare(one: str, other: str) -> None:
    from persuasion_rl.tools.compare import compare_studies

    print(compare_studies(one, other), end="")


def _annotated(study: str):
    from persuasion_rl.annotation.study import AnnotatedStudy

    return AnnotatedStudy(study_folder(study))


def _annotate(study: str, host: str, port: int, arena: bool) -> None:
    try:
        from persuasion_rl.annotation.web import serve
    except ModuleNotFoundError as error:
        raise UserError(f"annotate needs {error.name}: pip install -e '.[annotate]'") from None
    files = _annotated(study)
    if not arena:
        files.refuse_if_simulated()
    serve(files, host, port, arena)


def _chat(study: str, model: str) -> None:
    from persuasion_rl.annotation.arena import LoadedModels, chat

    folder = study_folder(study)
    chat(LoadedModels(folder, recorded_config(folder)), model)


def _export(study: str, file: Path) -> None:
    from persuasion_rl.annotation.exchange import export_answers
    from persuasion_rl.annotation.store import read_answers

    files = _annotated(study)
    # Annotators elsewhere read the conversation, without the frame of the prompt.
    pool = {pair: row | {"prompt": files.context(row)} for pair, row in files.pool.items()}
    rows = export_answers(pool, read_answers(files.answers), files.plan, file)
    print(f"{file}: {rows:,} rows")


def _import(study: str, file: Path) -> None:
    from persuasion_rl.annotation.exchange import import_answers
    from persuasion_rl.annotation.store import AnswerStore

    files = _annotated(study)
    files.refuse_if_simulated()
    with AnswerStore(files.answers) as store:
        new, total = import_answers(files.pool, store, file)
    print(f"{file}: {total:,} answers, {new:,} of them new; existing answers were kept")


def _doctor(configfile: Path) -> None:
    from persuasion_rl.tools.doctor import report

    print(report(configfile), end="")


def _why(target: str, configfile: Path | None) -> None:
    from persuasion_rl.tools.why import explain

    print(explain(target, configfile), end="")


if __name__ == "__main__":
    main()
