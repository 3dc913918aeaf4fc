"""What experiments share: command line, data, recipes, what a run leaves."""
