"""What each command of `semievol` does: call, print; no logic.

Imports stand in the functions: a command waits for nothing that it does not use.
"""

from __future__ import annotations

import argparse

from semievol_ray.errors import UserError


def run(args: argparse.Namespace) -> int:
    """`semievol run`."""
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
    print_result(Run(done.uri))
    return 0


def plan(args: argparse.Namespace) -> int:
    """`semievol plan`."""
    from semievol_ray.config_file import load_config
    from semievol_ray.planning import Asked, plan, plan_lines
    from semievol_ray.progress.terminal import terminal_progress

    config = load_config(args.config, tuple(args.set))
    asked = Asked(args.rows, args.gpus, args.replicas, args.rows_per_second, args.probe_rows)
    progress = terminal_progress()
    try:
        found = plan(config, asked, progress)
    finally:
        progress.close()
    for line in plan_lines(config, *found):
        print(line)
    return 0


def compare(args: argparse.Namespace) -> int:
    """`semievol compare`."""

    from semievol_ray.comparing.compare import compare, folder_of
    from semievol_ray.comparing.outcome import Outcome, as_json, as_markdown, as_text
    from semievol_ray.config_file import load_config
    from semievol_ray.progress.terminal import terminal_progress
    from semievol_ray.store import RunDirectory, layout, longer_uri

    config = load_config(args.config, tuple(args.set))
    where = args.folder or folder_of(config)
    seeds = range(config.seed, config.seed + args.seeds)
    progress = terminal_progress()

    def keep(outcome: Outcome) -> None:
        """A comparison may be cut short: what is known is kept as each arm ends."""
        directory = RunDirectory(where)
        directory.write_json(layout.COMPARISON, as_json(outcome))
        directory.write_bytes("compare.md", as_markdown(outcome).encode())

    try:
        found = compare(
            config, args.arms, seeds, folder=where, at_once=args.at_once,
            progress=progress, done=keep,
        )  # fmt: skip
    finally:
        progress.close()
    print(as_text(found))
    table = longer_uri(where, "/compare.md")
    print(f"\nthe table, and which rows each arm had right: {table}, compare.json")
    return 0


def status(args: argparse.Namespace) -> int:
    """`semievol status`."""
    from semievol_ray.results import Run

    if args.address is not None:
        from semievol_ray.submit import states

        for job, state in states(args.run, address=args.address):
            print(f"{job} {state}")
    run = Run(args.run)
    for manifest in run.manifests:
        detail = ""
        if manifest.state == "done":
            # What ingest put aside is none of the run's rows.
            read = manifest.statistics.get("rows") if manifest.stage == "ingest" else None
            rows = sum((read or manifest.outputs).values())
            detail = f"{rows} rows, {manifest.seconds:.1f} s"
        # Who works on it now, if anyone, is said below.
        state = "begun" if manifest.state == "running" else manifest.state
        print(f"{manifest.stage:<18} {state:<8} {detail}")
    if run.live is not None:
        print(run.live)
    print_result(run)
    return 0


def config(args: argparse.Namespace) -> int:
    """`semievol config`."""
    import json
    from pathlib import Path

    from semievol_ray.config import Config
    from semievol_ray.config_file import load_config, settings_of
    from semievol_ray.tasks.presets import what_is_left_open

    if args.schema:
        print(json.dumps(Config.model_json_schema(), indent=1))
        return 0
    if args.config is None:
        raise UserError("config: name a file, or ask for the --schema")
    path, overrides = Path(args.config), tuple(args.set)
    settings = settings_of(path, overrides)
    left_open = what_is_left_open(load_config(path, overrides).task)
    width = max(len(setting.name) for setting in settings)
    for setting in settings:
        value, origin = setting.value, setting.origin
        if value is None:
            value, origin = left_open.get(setting.name, (value, origin))
        print(f"{setting.name:<{width}}  {json.dumps(value, ensure_ascii=False)}  # {origin}")
    return 0


def select(args: argparse.Namespace) -> int:
    """`semievol select`."""
    from semievol_ray.reselection import reselect

    found = reselect(args.run, tuple(args.set), args.round)
    for line in found.lines:
        print(line)
    for reason, count in found.reasons.items():
        print(f"{reason:<18} {count}")
    print(f"written to {found.folder}")
    return 0


def labels(args: argparse.Namespace) -> int:
    """`semievol labels`."""
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


def show(args: argparse.Namespace) -> int:
    """`semievol show`."""
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


def export(args: argparse.Namespace) -> int:
    """`semievol export`."""
    from pathlib import Path

    from semievol_ray.results import Run
    from semievol_ray.review import export_rows, rows_of

    rows = rows_of(Run(args.run), args.where, args.round)
    count = export_rows(rows, Path(args.output), args.format)
    print(f"{count} rows: {args.output}")
    return 0


def import_(args: argparse.Namespace) -> int:
    """`semievol import`."""
    from pathlib import Path

    from semievol_ray.results import Run
    from semievol_ray.review import import_reviewed

    columns = Run(args.run).config().data.columns
    count = import_reviewed(Path(args.reviewed), Path(args.output), columns)
    print(f"{count} labels: add {args.output} to data.labeled of the next run")
    return 0


def report(args: argparse.Namespace) -> int:
    """`semievol report`."""
    from pathlib import Path

    from semievol_ray.report import write_report
    from semievol_ray.results import Run

    output = None if args.output is None else Path(args.output)
    found = write_report(Run(args.run), args.compare, output)
    print(f"the report: {found.html}")
    print(f"rows worth labelling next: {found.csv}")
    return 0


def evaluate(args: argparse.Namespace) -> int:
    """`semievol evaluate`."""
    from semievol_ray import pipeline
    from semievol_ray.comparing.sharing import first_changed
    from semievol_ray.progress.terminal import terminal_progress
    from semievol_ray.results import Run
    from semievol_ray.stages import baselines

    run = Run(args.run)
    progress = terminal_progress()
    try:
        config = run.config(tuple(args.set))
        redo = None
        if args.set:
            # What asks all models otherwise asks the baselines otherwise, too.
            asks_all = first_changed(config) == baselines.NAME
            redo = baselines.NAME if asks_all else "evaluate"
        pipeline.run(config, progress=progress, redo=redo)
    finally:
        progress.close()
    print_result(run)
    return 0


def merge(args: argparse.Namespace) -> int:
    """`semievol merge`."""
    from pathlib import Path

    from semievol_ray.training import merge

    print(merge(Path(args.adapter), Path(args.output), base_model=args.into))
    return 0


def push(args: argparse.Namespace) -> int:
    """`semievol push`."""
    from semievol_ray.push import push
    from semievol_ray.results import Run

    print(push(Run(args.run), args.to, base=args.base, public=args.public))
    return 0


def completion(args: argparse.Namespace) -> int:
    """`semievol completion`."""
    import shtab

    print(shtab.complete(args.parser, shell=args.shell))
    return 0


def init(args: argparse.Namespace) -> int:
    """`semievol init`."""
    from semievol_ray.scaffold import write_config

    keys = ("question", "answer", "context", "options")
    columns: dict[str, str | tuple[str, ...]]
    columns = {key: name for key in keys if (name := getattr(args, key))}
    if (options := columns.get("options")) is not None:
        columns["options"] = tuple(options) if len(options) > 1 else options[0]
    path, notes = write_config(
        args.labeled, args.unlabeled, args.test, args.model, args.output, columns
    )
    for note in notes:
        print(f"note: {note}")
    print(f"wrote {path}; look through it, then: semievol run {path}")
    return 0


def demo(args: argparse.Namespace) -> int:
    """`semievol demo`."""
    from semievol_ray.demo import run_demo
    from semievol_ray.demo.smollm2 import smollm2
    from semievol_ray.progress.terminal import terminal_progress

    model = smollm2() if args.model == "smollm2" else None
    progress = terminal_progress()
    try:
        run = run_demo(args.folder, seed=args.seed, real_model=model, progress=progress)
    finally:
        progress.close()
    print_result(run)
    return 0


def doctor(args: argparse.Namespace) -> int:
    """`semievol doctor`."""
    from semievol_ray.doctor import examine

    healthy = True
    for finding in examine():
        mark = "ok" if finding.works else ("MISSING" if finding.needed else "-")
        print(f"{mark:<8} {finding.name:<22} {finding.detail}")
        healthy &= finding.works or not finding.needed
    return 0 if healthy else 1


def render(args: argparse.Namespace) -> int:
    """`semievol render`."""
    from pathlib import Path

    from semievol_ray.config_file import load_config
    from semievol_ray.new_files import new_file
    from semievol_ray.submit.render import Cluster, as_yaml, render

    cluster = Cluster(
        name=args.name, image=args.image, cpus=args.cpus, memory_gib=args.memory, gpus=args.gpus,
        most_workers=args.workers, spot=args.spot, priority_class=args.priority_class,
        claim=args.claim, model_claim=args.model_claim, redis=args.redis,
        deadline_seconds=args.deadline,
    )  # fmt: skip
    text = as_yaml(render(load_config(args.config, tuple(args.set)), cluster, args.kind))
    if args.output is None:
        print(text, end="")
        return 0
    with new_file(Path(args.output)) as file:
        file.write(text.encode())
    print(f"wrote {args.output}; kubectl apply -f {args.output}")
    return 0


def submit(args: argparse.Namespace) -> int:
    """`semievol submit`."""
    from semievol_ray.submit import submit

    return submit(args.config, tuple(args.set), address=args.address, follow=not args.no_wait)


def attach(args: argparse.Namespace) -> int:
    """`semievol attach`."""
    from semievol_ray.submit import attach

    return attach(args.run, address=args.address)


def stop(args: argparse.Namespace) -> int:
    """`semievol stop`."""
    from semievol_ray.submit import stop

    return stop(args.run, address=args.address)


def print_result(run: object) -> None:
    """The comparison, and where everything is."""
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
