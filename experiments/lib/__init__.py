"""What experiments share: command line, data, recipes, the files of a run."""
