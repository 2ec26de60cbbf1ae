"""DataError: what every fault of a data set on disk is reported as."""

__all__ = ["DataError"]


class DataError(ValueError):
    """A data set cannot be used as it lies on disk. The message names the file, what is wrong, and the way out."""
