"""The command `semievol`: parse, call, print; no logic.

Exit codes: 0 done, 1 something failed, 2 the user's input cannot be used, 130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from types import FrameType

from semievol_ray.errors import SemiEvolError, UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    parsed = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = parsed.command
    if threading.current_thread() is threading.main_thread():
        # A pre-emption notice, or a job that is stopped: end as on Ctrl-C, tidily.
        signal.signal(signal.SIGTERM, _interrupt)
    try:
        return command(parsed)
    except UserError as error:
        print(f"semievol: {error}", file=sys.stderr)
        return 2
    except SemiEvolError as error:
        print(f"semievol: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # Whoever read along has had enough; nothing is left to be flushed at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print(
            "semievol: interrupted; what is finished is kept: run the same command again to go on",
            file=sys.stderr,
        )
        return 130


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    # Once: what ends now must not be interrupted by the next signal of an impatient parent.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def _run(args: argparse.Namespace) -> int:
    from semievol_ray import pipeline
    from semievol_ray.config_file import load_config
    from semievol_ray.progress.terminal import terminal_progress
    from semievol_ray.results import Run

    config = load_config(args.config, tuple(args.set))
    progress = terminal_progress()
    try:
        done = pipeline.run(config, progress=progress, redo=args.redo, until=args.until)
    finally:
        progress.close()
    _print_result(Run(done.uri))
    return 0


def _status(args: argparse.Namespace) -> int:
    from semievol_ray.results import Run

    run = Run(args.run)
    for manifest in run.manifests:
        rows = sum(manifest.outputs.values())
        detail = f"{rows} rows, {manifest.seconds:.1f} s" if manifest.state == "done" else ""
        print(f"{manifest.stage:<18} {manifest.state:<8} {detail}")
    if run.live is not None:
        print(run.live)
    _print_result(run)
    return 0


def _config(args: argparse.Namespace) -> int:
    import json
    from pathlib import Path

    from semievol_ray.config import Config
    from semievol_ray.config_file import settings_of

    if args.schema:
        print(json.dumps(Config.model_json_schema(), indent=1))
        return 0
    if args.config is None:
        raise UserError("config: name a file, or ask for the --schema")
    settings = settings_of(Path(args.config), tuple(args.set))
    width = max(len(setting.name) for setting in settings)
    for setting in settings:
        value = json.dumps(setting.value, ensure_ascii=False)
        print(f"{setting.name:<{width}}  {value}  # {setting.origin}")
    return 0


def _select(args: argparse.Namespace) -> int:
    from semievol_ray.reselection import reselect

    found = reselect(args.run, tuple(args.set), args.round)
    for line in found.lines:
        print(line)
    for reason, count in found.reasons.items():
        print(f"{reason:<18} {count}")
    print(f"written to {found.folder}")
    return 0


def _labels(args: argparse.Namespace) -> int:
    from pathlib import Path

    from semievol_ray.label_audit import audit_labels, write_csv

    found = audit_labels(args.run, tuple(args.set))
    who = " and ".join(found.classifiers)
    rows = found.contradicted.to_pylist()
    print(f"{len(rows)} of {found.labels} labels are contradicted by {who}, fitted without them")
    for row in rows[: args.most]:
        question = " ".join(row["question"].split())
        shown = question if len(question) <= 100 else f"{question[:99]}…"
        print(
            f"{row['example_id']}: {row['label']} ({row['p_label']:.2f}), expected "
            f"{row['expected']} ({row['p_expected']:.2f}): {shown}"
        )
    if args.csv:
        write_csv(found.contradicted, Path(args.csv))
        print(f"all of them: {args.csv}")
    return 0


def _show(args: argparse.Namespace) -> int:
    import json
    from dataclasses import asdict
    from itertools import islice

    from semievol_ray.results import Run
    from semievol_ray.review import rows_of

    for row in islice(rows_of(Run(args.run), args.where, args.round), max(0, args.limit)):
        if args.json:
            print(json.dumps(row.values | {"votes": [asdict(v) for v in row.votes]},
                             ensure_ascii=False))  # fmt: skip
        else:
            print("\n".join(row.lines()), end="\n\n")
    return 0


def _export(args: argparse.Namespace) -> int:
    from pathlib import Path

    from semievol_ray.results import Run
    from semievol_ray.review import export_rows, rows_of

    rows = rows_of(Run(args.run), args.where, args.round)
    count = export_rows(rows, Path(args.output), args.format)
    print(f"{count} rows: {args.output}")
    return 0


def _import(args: argparse.Namespace) -> int:
    from pathlib import Path

    from semievol_ray.results import Run
    from semievol_ray.review import import_reviewed

    columns = Run(args.run).config().data.columns
    count = import_reviewed(Path(args.reviewed), Path(args.output), columns)
    print(f"{count} labels: add {args.output} to data.labeled of the next run")
    return 0


def _report(args: argparse.Namespace) -> int:
    from pathlib import Path

    from semievol_ray.report import write_report
    from semievol_ray.results import Run

    output = None if args.output is None else Path(args.output)
    found = write_report(Run(args.run), [Run(other) for other in args.compare], output)
    print(f"the report: {found.html}")
    print(f"rows worth labelling next: {found.csv}")
    return 0


def _evaluate(args: argparse.Namespace) -> int:
    from semievol_ray import pipeline
    from semievol_ray.progress.terminal import terminal_progress
    from semievol_ray.results import Run

    run = Run(args.run)
    progress = terminal_progress()
    try:
        config = run.config(tuple(args.set))
        pipeline.run(config, progress=progress, redo="evaluate" if args.set else None)
    finally:
        progress.close()
    _print_result(run)
    return 0


def _merge(args: argparse.Namespace) -> int:
    from pathlib import Path

    from semievol_ray.training import merge

    print(merge(Path(args.adapter), Path(args.output), base_model=args.into))
    return 0


def _push(args: argparse.Namespace) -> int:
    from semievol_ray.push import push
    from semievol_ray.results import Run

    print(push(Run(args.run), args.to, base=args.base, public=args.public))
    return 0


def _completion(args: argparse.Namespace) -> int:
    import shtab

    print(shtab.complete(_parser(), shell=args.shell))
    return 0


def _init(args: argparse.Namespace) -> int:
    from semievol_ray.scaffold import write_config

    path = write_config(args.labeled, args.unlabeled, args.test, args.model, args.output)
    print(f"wrote {path}; look through it, then: semievol run {path}")
    return 0


def _demo(args: argparse.Namespace) -> int:
    from semievol_ray.demo import run_demo
    from semievol_ray.progress.terminal import terminal_progress

    progress = terminal_progress()
    try:
        run = run_demo(args.folder, seed=args.seed, progress=progress)
    finally:
        progress.close()
    _print_result(run)
    return 0


def _doctor(args: argparse.Namespace) -> int:
    from semievol_ray.doctor import examine

    healthy = True
    for finding in examine():
        mark = "ok" if finding.works else ("MISSING" if finding.needed else "-")
        print(f"{mark:<8} {finding.name:<22} {finding.detail}")
        healthy &= finding.works or not finding.needed
    return 0 if healthy else 1


def _submit(args: argparse.Namespace) -> int:
    from semievol_ray.submit import submit

    return submit(args.config, tuple(args.set), address=args.address, follow=not args.no_wait)


def _print_result(run: object) -> None:
    from semievol_ray.results import Run, metric_lines

    assert isinstance(run, Run)
    if run.metrics is not None:
        print()
        print("\n".join(metric_lines(run.metrics)))
    print(f"\nthe run: {run.uri}")
    if run.has_model:
        print(f"the model: {run.model_path()}")
    for name, folder in run.classifiers.items():
        print(f"a classifier, {name}: {folder}")
    if (report := run.report) is not None:
        print(f"the report: {report}")
    elif run.has_selection:
        print(f"what it did, as a page: semievol report {run.uri}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="semievol",
        description="A few labels and a large unlabelled corpus into a better LLM, on Ray.",
    )
    parser.add_argument(
        "--version",
        action="version",
        version=f"semievol {importlib.metadata.version('semievol-ray')}",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(
        name: str, command: Callable[[argparse.Namespace], int], text: str
    ) -> argparse.ArgumentParser:
        found = commands.add_parser(name, help=text, description=text)
        found.set_defaults(command=command)
        return found

    def add_set(found: argparse.ArgumentParser) -> None:
        found.add_argument(
            "--set", action="append", default=[], metavar="KEY=VALUE",
            help="override a setting, as in selection.percentile=40; may be repeated",
        )  # fmt: skip

    init = add("init", _init, "look at your files and write a commented config")
    init.add_argument("--labeled", required=True, help="file, glob or URI of the labelled set")
    init.add_argument("--unlabeled", required=True, help="of the unlabelled corpus")
    init.add_argument("--test", help="of the test set")
    init.add_argument("--model", default="./models/my-model", help="folder or hub id")
    init.add_argument("--output", default="semievol.yaml", help="the config to write")
    run = add("run", _run, "run a config, or go on with a run that stopped")
    run.add_argument("config", help="the YAML config")
    run.add_argument("--redo", metavar="STAGE", help="do this stage and all after it anew")
    run.add_argument("--until", metavar="STAGE", help="stop after this stage")
    add_set(run)
    config = add("config", _config, "every setting of a config, and where it comes from")
    config.add_argument("config", nargs="?", help="the YAML config")
    config.add_argument("--schema", action="store_true", help="the JSON schema, for editors")
    add_set(config)
    status = add("status", _status, "how far a run is")
    status.add_argument("run", help="the run directory")
    select = add("select", _select, "select anew from a run's responses; nothing is generated")
    select.add_argument("run", help="the run directory")
    select.add_argument("--round", type=int, default=1, help="whose responses (default 1)")
    add_set(select)
    labels = add("labels", _labels, "which labels look wrong to classifiers that had not seen them")
    labels.add_argument("run", help="the run directory; its stage ingest is enough")
    labels.add_argument("--csv", metavar="FILE", help="write all of them there")
    labels.add_argument("--most", type=int, default=20, help="how many to print (default 20)")
    add_set(labels)

    def add_rows(found: argparse.ArgumentParser) -> None:
        found.add_argument("run", help="the run directory")
        found.add_argument(
            "--where", metavar="CONDITION", help="as in 'selected and agreement < 0.5'"
        )
        found.add_argument("--round", type=int, default=1, help="whose rows (default 1)")

    show = add("show", _show, "unlabelled rows with what was voted on them")
    add_rows(show)
    show.add_argument("--limit", type=int, default=10, help="how many (default 10)")
    show.add_argument("--json", action="store_true", help="a JSON object each")
    export = add("export", _export, "write rows for review in a labelling tool")
    add_rows(export)
    export.add_argument("--format", choices=("jsonl", "label-studio", "argilla"), default="jsonl")
    export.add_argument("--output", required=True, metavar="FILE", help="a new file")
    taken = add("import", _import, "take reviewed rows back as labels of the next run")
    taken.add_argument("run", help="the run directory that they are from")
    taken.add_argument("reviewed", help="the tool's export, or JSONL with question and answer")
    taken.add_argument("--output", required=True, metavar="FILE", help="a new file of labels")
    report = add("report", _report, "write an HTML page that shows what a run did")
    report.add_argument("run", help="the run directory")
    report.add_argument("--compare", nargs="+", default=[], metavar="RUN", help="other runs")
    report.add_argument("--output", metavar="FILE", help="else report.html in the run directory")
    evaluate = add("evaluate", _evaluate, "compare a run's models on its test set")
    evaluate.add_argument("run", help="the run directory")
    add_set(evaluate)
    merge = add("merge", _merge, "write a base model with an adapter added to its weights")
    merge.add_argument("adapter", help="its folder: the model that `semievol status RUN` names")
    merge.add_argument("--into", metavar="BASE", help="folder or hub id; else the adapter's own")
    merge.add_argument("--output", required=True, metavar="FOLDER", help="the model to write")
    push = add("push", _push, "hand a run's model on, with its cards")
    push.add_argument("run", help="the run directory")
    push.add_argument(
        "--to", required=True, metavar="PLACE", help="./FOLDER, or OWNER/NAME on the hub"
    )
    push.add_argument("--base", metavar="ID", help="what others know the base model by")
    push.add_argument(
        "--public", action="store_true", help="a repository that is made is private else"
    )
    demo = add("demo", _demo, "the whole job on made-up data and a tiny model")
    demo.add_argument("--folder", default="runs/demo", help="where it is written")
    demo.add_argument("--seed", type=int, default=0)
    add("doctor", _doctor, "what is installed, what works, what is missing")
    completion = add("completion", _completion, "a script that completes commands in your shell")
    completion.add_argument("shell", choices=("bash", "zsh", "tcsh"))
    submit = add("submit", _submit, "run a config as a Ray job on a cluster")
    submit.add_argument("config", help="the YAML config")
    submit.add_argument("--address", required=True, help="http(s)://HOST:8265 of the cluster")
    submit.add_argument("--no-wait", action="store_true", help="do not follow the logs")
    add_set(submit)
    return parser


if __name__ == "__main__":
    sys.exit(main())
