"""flux: an instant-messaging backend that starts with one command."""

__version__ = "0.1.0"
