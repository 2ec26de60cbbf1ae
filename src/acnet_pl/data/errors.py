"""DataError: the error for every fault of a data set on disk."""

__all__ = ["DataError"]


class DataError(ValueError):
    """A data set on disk cannot be used; the message names the file, the fault, and the way out."""
