"""Ours and the user's models as files, looked at before they are read."""

VARIABLE = "COMPRESS_MODEL"  # of the environment: the code that --model names, for the processes of a command
