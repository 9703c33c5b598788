"""Where Django looks for commands. Nothing else belongs here."""
