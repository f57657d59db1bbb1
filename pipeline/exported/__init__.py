"""Sources that are copied into an exported folder: they need nothing of this project."""
