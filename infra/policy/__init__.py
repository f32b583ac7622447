"""What no manifest here may do: rights, pods, networks and secrets, one module each."""

from __future__ import annotations

from collections.abc import Sequence

from infra.objects import Object, Problem
from infra.policy import access, network, pods, secrets


def problems(objects: Sequence[Object], *, digests: bool = False) -> list[Problem]:
    """Everything that is against the rules, in the order of the objects.

    Args:
        objects: of one cluster, all together: whether a pod has a network policy is seen from the others.
        digests: refuse images without one.
    """
    found = [*access.problems(objects), *pods.problems(objects, digests=digests)]
    found += [*network.problems(objects), *secrets.problems(objects)]
    order = {(obj.file, obj.kind, obj.name): index for index, obj in enumerate(objects)}
    return sorted(found, key=lambda problem: order[problem.file, problem.kind, problem.name])
