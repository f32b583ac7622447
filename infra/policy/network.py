"""Networks: every pod is closed by default, and what opens it says to whom."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from infra.objects import Manifest, Object, Problem, pods_of

_DIRECTIONS = ("Ingress", "Egress")
_ANYWHERE = {"0.0.0.0/0": "169.254.0.0/16", "::/0": "fe80::/10"}


def problems(objects: Sequence[Object]) -> Iterator[Problem]:
    """Of pods that no policy selects, and of policies that open everything."""
    policies = [obj for obj in objects if obj.kind == "NetworkPolicy"]
    for policy in policies:
        yield from (policy.problem(what) for what in _of_policy(policy.spec))
    namespaces = sorted({policy.namespace or "default" for policy in policies})
    for obj in objects:
        # Pods of a cluster-wide runtime are made where its jobs are: in any of the namespaces.
        where = [obj.namespace] if obj.namespace else namespaces or ["default"]
        for pod in pods_of(obj):
            for namespace in where:
                there = [policy.spec for policy in policies if (policy.namespace or "default") == namespace]
                if open_ways := _open(pod.labels, there):
                    yield obj.problem(f"no NetworkPolicy of namespace {namespace} closes {' and '.join(open_ways)}")


def _open(labels: Mapping[str, str], policies: Sequence[Manifest]) -> list[str]:
    """The directions in which a pod may speak to anybody."""
    closed = {way for spec in policies if selects(spec.get("podSelector") or {}, labels) for way in _types(spec)}
    return [way for way in _DIRECTIONS if way not in closed]


def _types(spec: Manifest) -> list[str]:
    return list(spec.get("policyTypes") or (_DIRECTIONS if spec.get("egress") else _DIRECTIONS[:1]))


def selects(selector: Manifest, labels: Mapping[str, str]) -> bool:
    """Whether a label selector of Kubernetes matches these labels; an empty one matches all."""
    if any(labels.get(key) != value for key, value in (selector.get("matchLabels") or {}).items()):
        return False
    return all(_holds(expression, labels) for expression in selector.get("matchExpressions") or [])


def _holds(expression: Manifest, labels: Mapping[str, str]) -> bool:
    key, values = expression["key"], expression.get("values") or []
    match expression["operator"]:
        case "In":
            return labels.get(key) in values
        case "NotIn":
            return labels.get(key) not in values
        case "Exists":
            return key in labels
        case _:
            return key not in labels


def _of_policy(spec: Manifest) -> Iterator[str]:
    for direction, peers in (("ingress", "from"), ("egress", "to")):
        for rule in spec.get(direction) or []:
            if not rule.get(peers):
                yield f"{direction}: a rule without {peers!r} opens it to everybody"
            if not rule.get("ports"):
                yield f"{direction}: a rule without ports opens all of them"
            for peer in rule.get(peers) or []:
                yield from _of_peer(direction, peer)


def _of_peer(direction: str, peer: Manifest) -> Iterator[str]:
    if not peer or (peer.get("namespaceSelector") == {} and not peer.get("podSelector")):
        yield f"{direction}: opens it to every pod of the cluster"
    block = peer.get("ipBlock") or {}
    link_local = _ANYWHERE.get(block.get("cidr", ""))
    if link_local and direction == "ingress":
        yield f"{direction}: opens it to {block['cidr']}"
    elif link_local and link_local not in (block.get("except") or []):
        yield f"{direction}: {block['cidr']} does not except {link_local}, where clouds hand out credentials"
