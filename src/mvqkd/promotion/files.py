"""What lies in a promotion-decision."""

DECISION_FILE = "decision.json"
# wer-reports of the challenger on further test sets, a directory each.
REPORTS_DIRECTORY = "reports"
