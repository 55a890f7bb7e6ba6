"""Studies, which train or evaluate several runs: tables, trust, toy problems, searches, task sequences."""
