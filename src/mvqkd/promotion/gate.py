"""The gate: should this bundle become the champion? A pure function over small records; no files, no registry.

Every check is a row that a reviewer can read: figure, threshold, verdict and why. One failed row rejects.
A comparison that would not be fair (another test set, another text normaliser) is refused, never guessed.
docs/gate.md has the table of checks and how often they err.
"""

from __future__ import annotations

from mvqkd.config import GateConfig
from mvqkd.promotion.absolute import absolute_checks
from mvqkd.promotion.candidate import Candidate
from mvqkd.promotion.rivalry import rivalry
from mvqkd.promotion.verdict import Decision


def decide(challenger: Candidate, champion: Candidate | None, config: GateConfig) -> Decision:
    """Judge a challenger against absolute bounds and, where there is one, the champion.

    The burden of proof is the challenger's: a champion that stays costs little, a worse one in its place costs its
    users. Only slices, of which there are many and small ones, must be shown to be worse.

    Args:
        challenger: the bundle under judgement.
        champion: the bundle to beat; None when there is no champion yet. The same bundle as the challenger
            compares equal.
        config: thresholds.
    Returns:
        ``promote`` when no check fails, else ``reject``. Equal arguments give equal decisions, in whatever order
        utterances and test sets come.
    """
    against = rivalry(challenger, champion, config)
    checks = (*absolute_checks(challenger, config), *against.checks)
    failed = [check for check in checks if check.verdict == "fail"]
    reason = against.reason
    if failed:
        more = f" (and {len(failed) - 1} more failed)" if len(failed) > 1 else ""
        reason = f"{failed[0].name}: {failed[0].why}{more}"
    return Decision("reject" if failed else "promote", reason, checks, against.comparison, against.slices)
