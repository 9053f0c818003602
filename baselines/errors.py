"""The one exception that means: the person can put this right."""


class InputError(ValueError):
    """A fault in what the user gave: a file, an option, a config key.

    The message is one sentence that names it, says what was expected and what to do.
    Command lines print it without a traceback and leave with exit code 2.
    """
