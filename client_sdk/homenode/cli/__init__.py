"""The command line. `main` parses and dispatches; each other module is a group of commands."""
