"""The command line: one file a command (parse, call, print), listed in `main.COMMANDS`."""
