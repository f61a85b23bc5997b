"""persuasion-rl: the stages of the study, one module a stage, each with a command line."""

__version__ = "0.1.0"
