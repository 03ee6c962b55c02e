"""What is raised where weights cannot be had or used."""

__all__ = ["CheckpointError"]


class CheckpointError(ValueError):
    """A checkpoint that cannot be used. The message names the file, the address or the keys, and the remedy."""
