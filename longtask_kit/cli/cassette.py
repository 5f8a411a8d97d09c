"""`longtask cassette`: what is in a file of recorded answers, what notebooks miss in it or use."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from longtask_kit.cassettes import Cassette, merge
from longtask_kit.cli.console import JsonOption, OwnConsole, tell, tell_error
from longtask_kit.cli.notebook_file import read_notebook
from longtask_kit.cli.spelled import find_asked
from longtask_kit.cli.table import print_table
from longtask_kit.client.cassette import find_file, load_cassette, replace_cassette
from longtask_kit.errors import ConfigError
from longtask_kit.log.text import make_printable

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from longtask_kit.cassettes import Answer

cassette_app = typer.Typer(
    help="Look into files of recorded answers, join them, keep them small.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_Files = Annotated[list[Path], typer.Argument(metavar="FILE…", help="Cassettes.")]
_NOTEBOOK = ".ipynb"
_PROMPT_CHARS = 70
_NAMED = re.compile(r"""(?:replay\s*=|record\(|save_cassette\()\s*["']([^"'\n]+)["']""")


@cassette_app.command()
def show(files: _Files, *, as_json: JsonOption = False) -> None:
    """List what is in cassettes, a line an answer."""
    is_unread = False
    for path in map(find_file, files):
        try:
            cassette = load_cassette(path)
        except ConfigError as exc:
            tell_error(exc)
            is_unread = True
            continue
        answers = sorted(cassette.answers.values(), key=lambda answer: answer.line)
        if as_json:
            for answer in answers:
                wire = {"file": path.name, "line": answer.line, **json.loads(answer.to_line())}
                sys.stdout.write(json.dumps(wire) + "\n")
            continue
        _print_table(path, cassette, answers)
        _tell_damage(path, cassette)
    if is_unread:
        raise typer.Exit(1)


def _print_table(path: Path, cassette: Cassette, answers: Sequence[Answer]) -> None:
    rows = []
    for answer in answers:
        question, last = answer.question, answer.attempts[-1]
        failed = f" ({last.get('code') or 'failed'})" if "error" in last else ""
        cells = (
            str(answer.line),
            answer.recorded,
            question.model,
            str(question.sample),
            f"{len(answer.attempts)}{failed}",
            str(last.get("usage", {}).get("out", last.get("deltas", 0))),
            _shorten(_find_prompt(answer)),
        )
        rows.append([make_printable(" ".join(cell.split())) for cell in cells])
    names = ("line", "recorded", "model", "sample", "attempts", "tokens", "prompt")
    print_table(OwnConsole(highlight=False), names, rows)
    size_kb = path.stat().st_size / 1000
    tell(
        f"{path.name}: {_count(len(answers), 'answer')}, {size_kb:,.0f} kB, "
        f"{cassette.describe(path.name)}"
    )


@cassette_app.command()
def check(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE…",
            help="Cassettes and notebooks; without a cassette LONGTASK_REPLAY, or what they name.",
        ),
    ],
    *,
    replay: Annotated[
        bool, typer.Option("--replay", help="Run the notebooks: all that they ask is known then.")
    ] = False,
) -> None:
    """Tell damaged lines, and what notebooks would miss; exit code 1 if there is any."""
    notebooks, given = _sort_files(files)
    faults = 0
    for path in given:
        cassette = load_cassette(path)  # else nobody knows what notebooks miss
        faults += _tell_damage(path, cassette)
        sys.stdout.write(f"{path.name}: {_count(len(cassette.answers), 'answer')}\n")
    if replay:
        found = _run({notebook: given or _find_named(notebook) for notebook in notebooks})
    else:
        found = {notebook: _look_for_misses(notebook, given) for notebook in notebooks}
    for notebook, misses in found.items():
        for miss in misses:
            tell(f"{notebook.name}: {miss}")
        faults += len(misses)
        if not misses:
            seen = "nothing is missing" if replay else "no prompt that it spells out is missing"
            more = "" if replay else "; --replay runs it, which also finds what it puts together"
            tell(f"{notebook.name}: {seen}{more}")
    if faults:
        raise typer.Exit(1)


@cassette_app.command("merge")
def merge_files(files: _Files) -> None:
    """Join cassettes into the first; of two answers to a question the later file's stands."""
    first, *others = map(find_file, files)
    if not others:
        raise ConfigError("Nothing to join: longtask cassette merge INTO.jsonl FROM.jsonl …")
    loaded = [load_cassette(path) for path in others]
    counts: list[int] = []

    def join(cassette: Cassette) -> Cassette:
        joined = cassette
        for other in loaded:
            joined = merge(joined, other.answers.values())
        counts.append(len(joined.answers) - len(cassette.answers))
        counts.append(sum(joined.answers[k] is not a for k, a in cassette.answers.items()))
        return joined

    joined = replace_cassette(first, join)
    sys.stdout.write(
        f"{first.name}: {_count(len(joined.answers), 'answer')}, {counts[0]} new, "
        f"{counts[1]} replaced\n"
    )
    for path, cassette in zip(others, loaded, strict=True):
        _tell_damage(path, cassette)


@cassette_app.command()
def prune(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE…", help="One cassette, and all its notebooks.")
    ],
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell.")] = False,
) -> None:
    """Drop the answers that none of these notebooks uses; each of them is run, with replay."""
    from longtask_kit.cli.cassette_run import open_replay

    notebooks, cassettes = _sort_files(files)
    if len(cassettes) != 1 or not notebooks:
        raise ConfigError("Say whose: longtask cassette prune answers.jsonl NOTEBOOK.ipynb …")
    [path] = cassettes
    used: set[str] = set()
    with open_replay(path) as run:
        for notebook in notebooks:
            seen = run(notebook)
            # What comes behind a failure is not asked, though it may be when that is mended.
            if failed := [*seen.errors, *seen.misses]:
                raise ConfigError(
                    f"{notebook.name} could not be run to its end, so nothing is dropped: "
                    f"{failed[0]}"
                )
            used |= seen.used
    drop_unused(path, used, dry_run=dry_run)


def drop_unused(path: Path, used: Collection[str], *, dry_run: bool) -> None:
    """Take the answers out whose questions are none of these, and say which."""
    unused = [a for key, a in load_cassette(path).answers.items() if key not in used]
    for answer in sorted(unused, key=lambda answer: answer.line):
        tell(f"line {answer.line}: {_shorten(_find_prompt(answer))}")
    dropped = {answer.question.key for answer in unused}
    if not dry_run and dropped:
        replace_cassette(path, lambda cassette: _without(cassette, dropped))
    verb = "unused" if dry_run else "dropped"
    sys.stdout.write(f"{path.name}: {_count(len(unused), 'answer')} {verb}\n")


def _without(cassette: Cassette, keys: set[str]) -> Cassette:
    kept = {key: answer for key, answer in cassette.answers.items() if key not in keys}
    return Cassette(kept, cassette.damaged)


def _run(asked: Mapping[Path, Sequence[Path]]) -> dict[Path, list[str]]:
    """Return what notebooks miss, and how they fail; those of one cassette share a stack."""
    from longtask_kit.cli.cassette_run import open_replay

    found: dict[Path, list[str]] = {}
    for cassettes in dict.fromkeys(map(tuple, asked.values())):
        mine = [notebook for notebook, named in asked.items() if tuple(named) == cassettes]
        if len(cassettes) > 1:
            raise ConfigError(f"{mine[0].name} is run with one cassette: join them, or name one.")
        with open_replay(cassettes[0]) as run:
            for notebook in mine:
                try:
                    seen = run(notebook)
                except ConfigError as exc:  # the other notebooks are no worse for it
                    found[notebook] = [str(exc)]
                else:
                    found[notebook] = [*seen.misses, *seen.errors]
    return found


def _look_for_misses(notebook: Path, given: Sequence[Path]) -> list[str]:
    """Return the prompts that a notebook spells out and no cassette has been asked."""
    try:
        asked = find_asked(read_notebook(notebook)[0])
        cassettes = [load_cassette(path) for path in given or _find_named(notebook)]
    except ConfigError as exc:  # other notebooks are no worse for it
        return [str(exc)]
    answers = [answer for cassette in cassettes for answer in cassette.answers.values()]
    recorded = {text for answer in answers for text in _list_texts(answer)}
    return [
        f"cell {one.cell} asks what is not recorded: {_shorten(one.prompt)}"
        for one in asked
        if one.prompt not in recorded
    ]


def _list_texts(answer: Answer) -> Iterator[str]:
    for message in answer.question.messages:
        content = message.get("content")
        if isinstance(content, str):
            yield content
        else:
            yield from (p["text"] for p in content or () if isinstance(p.get("text"), str))


def _sort_files(files: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Return notebooks, and cassettes."""
    paths = [find_file(path) for path in files]
    notebooks = [path for path in paths if path.suffix == _NOTEBOOK]
    return notebooks, [path for path in paths if path.suffix != _NOTEBOOK]


def _find_named(notebook: Path) -> list[Path]:
    """Return the cassette that the environment, or else the notebook itself, names.

    Raises:
        ConfigError: There is none.
    """
    if named := os.environ.get("LONGTASK_REPLAY"):
        return [find_file(named)]
    cells = read_notebook(notebook)[0]["cells"]
    names = [name for cell in cells for name in _NAMED.findall("".join(cell.get("source", "")))]
    if not names:
        raise ConfigError(
            f"{notebook.name} names no cassette, and LONGTASK_REPLAY is not set: "
            f"longtask cassette check answers.jsonl {notebook.name}"
        )
    return [find_file(notebook.parent / name) for name in dict.fromkeys(names)]


def _tell_damage(path: Path, cassette: Cassette) -> int:
    for told in cassette.describe_damage():
        tell(f"{path.name}: {told}")
    return len(cassette.damaged)


def _find_prompt(answer: Answer) -> str:
    texts = [*_list_texts(answer)]
    return texts[-1] if texts else ""


def _shorten(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _PROMPT_CHARS else f"{text[: _PROMPT_CHARS - 1]}…"


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"
