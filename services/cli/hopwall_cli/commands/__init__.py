"""One file per subcommand: `add` declares its flags, `run` does it and returns the exit code."""
