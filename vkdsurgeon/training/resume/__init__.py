"""The journal of a run: enough to go on after a kill, a full disk or a missed stop rule, and nothing about whom."""
