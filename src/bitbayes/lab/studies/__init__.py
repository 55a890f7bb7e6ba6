"""Whatever trains or evaluates several runs: tables, trust, toy problems, searches, streams of tasks."""
