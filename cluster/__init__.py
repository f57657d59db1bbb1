"""Where trials run: a local Ray session, or a cluster that is already there."""
