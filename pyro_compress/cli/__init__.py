"""The command line: options, printing and nothing that a call from Python could not do."""
