"""What a command ends with: `Failure` is exit code 1, `Usage` exit code 2; the text is one sentence each."""


class Failure(RuntimeError):
    """The command could not do what was asked."""


class Usage(Failure):
    """The command was called in a way that cannot be meant."""
