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

from semievol_ray import commands
from semievol_ray.comparing.arms import ARMS
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


def _count(text: str) -> int:
    """A number of rows or machines, as in 2000 or 100M."""
    number, unit = text[:-1], text[-1:].upper()
    try:
        found = (
            float(number) * {"K": 1e3, "M": 1e6, "B": 1e9}[unit] if unit.isalpha() else float(text)
        )
    except (KeyError, ValueError):
        raise argparse.ArgumentTypeError(f"{text!r} is no number, as 2000 or 100M") from None
    if not 1 <= found < 1e13 or found != int(found):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(found)


def _add_set(found: argparse.ArgumentParser) -> None:
    found.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE",
        help="override a setting, as in selection.percentile=40; may be repeated",
    )  # fmt: skip


def _add_render(add: Callable[..., argparse.ArgumentParser]) -> None:
    found = add("render", commands.render, "a config as Kubernetes objects for KubeRay")
    found.add_argument("config", help="the YAML config")
    found.add_argument("--kind", choices=("rayjob", "raycluster"), default="rayjob")
    found.add_argument("--output", metavar="FILE", help="a new file; else it is printed")
    found.add_argument("--name", default="semievol", help="of the job (default semievol)")
    found.add_argument("--image", default="", help="else semievol-ray at this version")
    found.add_argument("--cpus", type=_count, default=8, help="of a worker (default 8)")
    found.add_argument("--memory", type=_count, default=64, help="of a worker, in GiB (default 64)")
    found.add_argument("--gpus", type=int, default=1, help="of a worker (default 1; 0: none)")
    found.add_argument("--workers", type=_count, default=8, help="where the config leaves it open")
    found.add_argument("--spot", metavar="KEY=VALUE", help="label and taint of spot nodes")
    found.add_argument("--priority-class", metavar="NAME")
    found.add_argument("--claim", metavar="NAME", help="a volume claim mounted at /runs")
    found.add_argument("--model-claim", metavar="NAME", help="one that keeps models (HF_HOME)")
    found.add_argument("--redis", metavar="HOST:PORT", help="for a head that comes back")
    found.add_argument("--deadline", type=_count, metavar="SECONDS", help="of the whole job")
    _add_set(found)


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
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(
        name: str, command: Callable[[argparse.Namespace], int], text: str
    ) -> argparse.ArgumentParser:
        found = subparsers.add_parser(name, help=text, description=text)
        found.set_defaults(command=command)
        return found

    init = add("init", commands.init, "look at your files and write a commented config")
    init.add_argument("--labeled", required=True, help="file, glob or URI of the labelled set")
    init.add_argument("--unlabeled", required=True, help="of the unlabelled corpus")
    init.add_argument("--test", help="of the test set")
    init.add_argument("--model", default="./models/my-model", help="folder or hub id")
    init.add_argument("--output", default="semievol.yaml", help="the config to write")
    for key in ("question", "answer", "context"):
        init.add_argument(f"--{key}", metavar="COLUMN", help="else it is guessed")
    init.add_argument("--options", nargs="+", metavar="COLUMN", help="one of lists, or one of each")
    run = add("run", commands.run, "run a config, or go on with a run that stopped")
    run.add_argument("config", help="the YAML config")
    run.add_argument("--redo", metavar="STAGE", help="do this stage and all after it anew")
    run.add_argument("--until", metavar="STAGE", help="stop after this stage")
    _add_set(run)
    plan = add("plan", commands.plan, "what a run takes, from a small one of the real thing")
    plan.add_argument("config", help="the YAML config")
    plan.add_argument("--rows", type=_count, help="of the corpus; else what its files hold")
    plan.add_argument("--gpus", type=_count, help="of the cluster that it is for; else of this one")
    plan.add_argument("--replicas", type=_count, help="else as `generation` has it")
    plan.add_argument("--rows-per-second", type=float, help="of a replica, where it is known")
    plan.add_argument("--probe-rows", type=_count, default=32, help="that are tried (default 32)")
    _add_set(plan)
    compare = add("compare", commands.compare, "arms beside each other on the test set, over seeds")
    compare.add_argument("config", help="the YAML config")
    compare.add_argument("--arms", nargs="+", default=(), metavar="ARM", help=", ".join(ARMS))
    compare.add_argument("--seeds", type=_count, default=1, help="how many (default 1)")
    compare.add_argument("--at-once", type=_count, default=1, help="arms that run beside others")
    compare.add_argument("--folder", help="where their runs are; else RUN_DIR-compare")
    _add_set(compare)
    config = add("config", commands.config, "every setting of a config, and where it comes from")
    config.add_argument("config", nargs="?", help="the YAML config")
    config.add_argument("--schema", action="store_true", help="the JSON schema, for editors")
    _add_set(config)
    status = add("status", commands.status, "how far a run is")
    status.add_argument("run", help="the run directory")
    status.add_argument("--address", help="http(s)://HOST:8265 of a cluster: its jobs of the run")
    select = add(
        "select", commands.select, "select anew from a run's responses; nothing is generated"
    )
    select.add_argument("run", help="the run directory")
    select.add_argument("--round", type=int, default=1, help="whose responses (default 1)")
    _add_set(select)
    labels = add(
        "labels", commands.labels, "which labels look wrong to classifiers that had not seen them"
    )
    labels.add_argument("run", help="the run directory; its stage ingest is enough")
    labels.add_argument("--csv", metavar="FILE", help="write all of them there")
    labels.add_argument("--most", type=int, default=20, help="how many to print (default 20)")
    _add_set(labels)

    def add_rows(found: argparse.ArgumentParser) -> None:
        found.add_argument("run", help="the run directory")
        found.add_argument(
            "--where", metavar="CONDITION", help="as in 'selected and agreement < 0.5'"
        )
        found.add_argument("--round", type=int, default=1, help="whose rows (default 1)")

    show = add("show", commands.show, "unlabelled rows with what was voted on them")
    add_rows(show)
    show.add_argument("--limit", type=int, default=10, help="how many (default 10)")
    show.add_argument("--json", action="store_true", help="a JSON object each")
    export = add("export", commands.export, "write rows for review in a labelling tool")
    add_rows(export)
    export.add_argument("--format", choices=("jsonl", "label-studio", "argilla"), default="jsonl")
    export.add_argument("--output", required=True, metavar="FILE", help="a new file")
    taken = add("import", commands.import_, "take reviewed rows back as labels of the next run")
    taken.add_argument("run", help="the run directory that they are from")
    taken.add_argument("reviewed", help="the tool's export, or JSONL with question and answer")
    taken.add_argument("--output", required=True, metavar="FILE", help="a new file of labels")
    report = add("report", commands.report, "write an HTML page that shows what a run did")
    report.add_argument("run", help="the run directory")
    report.add_argument("--compare", nargs="+", default=[], metavar="RUN",
                        help="other runs, or the folder of a comparison")  # fmt: skip
    report.add_argument("--output", metavar="FILE", help="else report.html in the run directory")
    evaluate = add("evaluate", commands.evaluate, "compare a run's models on its test set")
    evaluate.add_argument("run", help="the run directory")
    _add_set(evaluate)
    merge = add("merge", commands.merge, "write a base model with an adapter added to its weights")
    merge.add_argument("adapter", help="its folder: the model that `semievol status RUN` names")
    merge.add_argument("--into", metavar="BASE", help="folder or hub id; else the adapter's own")
    merge.add_argument("--output", required=True, metavar="FOLDER", help="the model to write")
    push = add("push", commands.push, "hand a run's model on, with its cards")
    push.add_argument("run", help="the run directory")
    push.add_argument(
        "--to", required=True, metavar="PLACE", help="./FOLDER, or OWNER/NAME on the hub"
    )
    push.add_argument("--base", metavar="ID", help="what others know the base model by")
    push.add_argument(
        "--public", action="store_true", help="a repository that is made is private else"
    )
    demo = add("demo", commands.demo, "the whole job on made-up data and a small model")
    demo.add_argument("--folder", default="runs/demo", help="where it is written")
    demo.add_argument(
        "--model",
        choices=("tiny", "smollm2"),
        default="tiny",
        help="a tiny Llama that comes along, or SmolLM2-135M-Instruct, which is fetched",
    )
    demo.add_argument("--seed", type=int, default=0)
    add("doctor", commands.doctor, "what is installed, what works, what is missing")
    completion = add(
        "completion", commands.completion, "a script that completes commands in your shell"
    )
    completion.set_defaults(parser=parser)
    completion.add_argument("shell", choices=("bash", "zsh", "tcsh"))
    _add_render(add)
    submit = add("submit", commands.submit, "run a config as a Ray job on a cluster")
    submit.add_argument("config", help="the YAML config")
    submit.add_argument("--address", required=True, help="http(s)://HOST:8265 of the cluster")
    submit.add_argument("--no-wait", action="store_true", help="do not follow the logs")
    _add_set(submit)
    attach = add("attach", commands.attach, "follow a run's job on a cluster, as submit does")
    stop = add("stop", commands.stop, "end a run's job on a cluster; what is done stays")
    for of_job in (attach, stop):
        of_job.add_argument("run", help="the YAML config, or the run directory")
        of_job.add_argument("--address", required=True, help="http(s)://HOST:8265 of the cluster")
    return parser


if __name__ == "__main__":
    sys.exit(main())
