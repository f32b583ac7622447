"""What `mvqkd pipeline ACTION` does. The command line of mvqkd parses arguments and reads the environment, no more."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from mvqkd.errors import ConfigError
from pipelines.arguments import arguments_of
from pipelines.client import Connection, Server, connect
from pipelines.package import Package, package_from_file, package_from_text

EXIT_DIFFERENT = 3
_SHOWN_TIMES = 3


def compile_pipeline(arguments: argparse.Namespace) -> int:
    """Write the specification, or say whether the file is up to date."""
    from pipelines import compile as compiling

    arguments.out = arguments.out or compiling.GOLDEN_FILE
    return compiling.run(arguments)


def diff(arguments: argparse.Namespace, connection: Mapping[str, Any]) -> int:
    """Print what this checkout changes against the golden file, another file, or the server's latest version."""
    from pipelines.compile import GOLDEN_FILE
    from pipelines.diff import readable_diff
    from pipelines.versions import latest_package

    new = _package(arguments)
    if arguments.server:
        server = connect(Connection(**connection))
        found = latest_package(server, new.name)
        if found is None:
            print(f"{server.host} has no version of {new.name} yet")
            return EXIT_DIFFERENT if arguments.exit_code else 0
        old_name, old = found
    else:
        file = arguments.file or GOLDEN_FILE
        old_name, old = str(file), package_from_file(file)
    lines = readable_diff(old, new, old_name, f"this checkout ({new.version_name})")
    print("\n".join(lines) or f"no difference from {old_name}")
    return EXIT_DIFFERENT if lines and arguments.exit_code else 0


def submit(arguments: argparse.Namespace, connection: Mapping[str, Any]) -> int:
    """Upload the version where needed and start a run of it, unless the same run is there."""
    from pipelines.submit import submit as submit_run

    server, version, values = _prepared(arguments, connection)
    submission = submit_run(
        server,
        version,
        values,
        experiment=arguments.experiment,
        run_name=arguments.run_name,
        service_account=arguments.service_account,
        pipeline_root=arguments.pipeline_root,
        force=arguments.force,
    )
    run = submission.run
    if submission.created:
        print(f"run {run.run_id}: started as {run.display_name}")
    else:
        print(f"run {run.run_id}: {run.state or 'PENDING'} with the same version and arguments; --force starts another")
    print(server.page(f"runs/details/{run.run_id}"), flush=True)
    return _followed(server, str(run.run_id), arguments) if arguments.wait else 0


def schedule(arguments: argparse.Namespace, connection: Mapping[str, Any]) -> int:
    """Create, change, list, enable, disable or delete schedules."""
    from pipelines import schedule as scheduling
    from pipelines.cron import parse_cron

    if arguments.cron is None:
        server = connect(Connection(**connection))
        if arguments.list:
            return _list_schedules(server, scheduling.schedules(server, _pipeline_name()))
        if arguments.delete:
            scheduling.delete_schedule(server, _pipeline_name(), arguments.name)
        else:
            scheduling.set_enabled(server, _pipeline_name(), arguments.name, arguments.enable)
        print(f"schedule {arguments.name}: {_done(arguments)}")
        return 0
    wanted = scheduling.Schedule(
        name=arguments.name,
        cron=parse_cron(arguments.cron),
        experiment=arguments.experiment,
        max_concurrency=arguments.max_concurrency,
        enabled=not arguments.disabled,
        service_account=arguments.service_account,
        pipeline_root=arguments.pipeline_root,
    )
    server, version, values = _prepared(arguments, connection)
    outcome = scheduling.put_schedule(server, version, values, wanted)
    times = ", ".join(f"{time:%a %Y-%m-%d %H:%M:%S}" for time in islice(wanted.cron.times(_now()), _SHOWN_TIMES))
    print(f"schedule {wanted.name}: {outcome}, {'enabled' if wanted.enabled else 'disabled'}")
    print(f"next: {times} (UTC unless Kubeflow's controller has another time zone)")
    return 0


def status(arguments: argparse.Namespace, connection: Mapping[str, Any]) -> int:
    """Print how a run is doing; 0 succeeded, 3 ended otherwise, 4 not ended."""
    from pipelines import status as looking

    server = connect(Connection(**connection))
    run_id = arguments.run_id
    if not looking.is_run_id(run_id):
        run_id = looking.find_run_id(server, _pipeline_name(), arguments.experiment, run_id)
    return _followed(server, run_id, arguments)


def _prepared(arguments: argparse.Namespace, connection: Mapping[str, Any]) -> tuple[Server, Any, dict[str, Any]]:
    """Server, uploaded version and arguments. Whatever can be wrong here is found before the server hears of it."""
    from pipelines.versions import ensure_version

    package = _package(arguments)
    if arguments.no_cache:
        package = package.without_caching()
    values = arguments_of(package, arguments.params, _settings(arguments.set))
    for image in sorted(package.images):
        if "@sha256:" not in image:
            print(f"note: image {image} is no digest: what it runs may change under this version", file=sys.stderr)
    server = connect(Connection(**connection))
    version = ensure_version(server, package)
    print(f"version {version.name}: {'uploaded' if version.created else 'on the server already'}")
    return server, version, values


def _package(arguments: argparse.Namespace) -> Package:
    """The pipeline of --package, else as this checkout compiles it."""
    if package := getattr(arguments, "package", None):
        if arguments.image or arguments.cluster:
            raise ConfigError(
                f"--package {package}",
                expected="no --image and no --cluster, which take effect when compiling",
                got="both",
                next_step="pass them to `mvqkd pipeline compile`",
            )
        return package_from_file(package)
    from pipelines.cluster import load_cluster
    from pipelines.compile import compiled

    return package_from_text(compiled(arguments.image, load_cluster(arguments.cluster)), "this checkout")


def _pipeline_name() -> str:
    # Read, because pipelines.distill would compile the whole pipeline to say its name.
    return package_from_file(Path(__file__).with_name("distill.golden.yaml")).name


def _settings(texts: Sequence[str]) -> dict[str, str]:
    settings: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--set {text}", expected="NAME=VALUE", got="no =", next_step=f"pass --set {name}=VALUE")
        settings[name.strip()] = value
    return settings


def _followed(server: Server, run_id: str, arguments: argparse.Namespace) -> int:
    """Print a run's state, after its end where --wait asks for that."""
    from pipelines.status import EXIT_UNFINISHED, status, wait

    if arguments.wait:
        # Progress is not part of what --json promises.
        found = wait(
            server,
            run_id,
            timeout_s=arguments.wait_timeout_s,
            poll_s=arguments.poll_s,
            tell=lambda line: print(f"{_now():%H:%M:%S} {line}", file=sys.stderr, flush=True),
        )
        if found.exit_code == EXIT_UNFINISHED:
            print(f"run {run_id}: not ended after {arguments.wait_timeout_s:g} s; it goes on", file=sys.stderr)
    else:
        found = status(server, run_id)
    print(json.dumps(found.as_json(), indent=2) if arguments.json else "\n".join(found.lines()))
    return found.exit_code


def _list_schedules(server: Server, found: Sequence[Any]) -> int:
    from pipelines.cron import parse_cron

    if not found:
        print(f"{server.host} has no schedule of this pipeline")
    for item in found:
        cron = item.trigger.cron_schedule.cron if item.trigger and item.trigger.cron_schedule else ""
        enabled = item.status == "ENABLED"
        try:
            coming = next(parse_cron(cron).times(_now()), None) if enabled else None
        except ConfigError:  # made by hand, with an expression that this command would refuse
            coming = None
        print(
            f"{item.display_name}: {'enabled' if enabled else 'disabled'}, cron '{cron}', "
            f"at most {item.max_concurrency} at a time, version {item.pipeline_version_reference.pipeline_version_id}"
            + (f", next {coming:%Y-%m-%d %H:%M:%S} UTC" if coming else "")
        )
    return 0


def _done(arguments: argparse.Namespace) -> str:
    if arguments.delete:
        return "deleted; its runs stay"
    return "enabled" if arguments.enable else "disabled; runs that have begun go on"


def _now() -> datetime:
    return datetime.now(UTC)
