"""Rights: by name, inside the namespace, and none that lead to others'."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from infra.objects import Manifest, Object, Problem

# Whoever has one of these can take any right.
_VERBS_TO_ANY_RIGHT = {"escalate", "bind", "impersonate"}
# Whoever may create or change one of these becomes what they can become.
_OTHERS_SHELLS = {"pods/exec", "pods/attach", "pods/portforward", "pods/proxy", "services/proxy", "nodes/proxy"}
_ENFORCE = "pod-security.kubernetes.io/enforce"


def problems(objects: Iterable[Object]) -> Iterator[Problem]:
    """Of roles, bindings, and of namespaces without Pod Security."""
    for obj in objects:
        if obj.kind in ("Role", "ClusterRole"):
            if obj.kind == "ClusterRole":
                yield obj.problem("rights in the whole cluster; use a Role")
            for rule in obj.manifest.get("rules") or []:
                yield from (obj.problem(what) for what in _of_rule(rule))
        elif obj.kind in ("RoleBinding", "ClusterRoleBinding"):
            yield from (obj.problem(what) for what in _of_binding(obj))
        elif obj.kind == "Namespace" and (obj.metadata.get("labels") or {}).get(_ENFORCE) != "restricted":
            yield obj.problem(f"no label {_ENFORCE}: restricted")


def _of_rule(rule: Manifest) -> Iterator[str]:
    for field in ("verbs", "resources", "apiGroups", "nonResourceURLs", "resourceNames"):
        if any("*" in value for value in rule.get(field) or []):
            yield f"wildcard in {field}"
    verbs, resources = set(rule.get("verbs") or []), set(rule.get("resources") or [])
    if taken := sorted(verbs & _VERBS_TO_ANY_RIGHT):
        yield f"verb {', '.join(taken)} leads to any right"
    if shells := sorted(resources & _OTHERS_SHELLS):
        yield f"{', '.join(shells)} leads into other pods"
    if "secrets" in resources and (not rule.get("resourceNames") or verbs - {"get"}):
        yield "secrets may be got by resourceNames only, neither listed nor written"


def _of_binding(obj: Object) -> Iterator[str]:
    if obj.kind == "ClusterRoleBinding":
        yield "rights in the whole cluster; use a RoleBinding"
    role = obj.manifest.get("roleRef") or {}
    if role.get("kind") != "Role":
        yield f"binds {role.get('kind')} {role.get('name')}, whose rights are not seen here; use a Role"
    for subject in obj.manifest.get("subjects") or []:
        name = str(subject.get("name", ""))
        if name.startswith("system:") or (subject.get("kind") == "ServiceAccount" and name == "default"):
            yield f"binds {subject.get('kind')} {name}, which others share"
