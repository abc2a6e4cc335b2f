"""Bytes to typed messages and back; no reactor in here.

``framing`` cuts a byte stream into lines.  ``catalogue`` turns a line into one of a
port's request structs, or into a precise error.  ``requests`` and ``replies`` are the
chat port's messages, ``status`` those of the status port.  ``named`` and ``numbered``
are the two dialects of the chat port: the same requests and events, other bytes.
"""
