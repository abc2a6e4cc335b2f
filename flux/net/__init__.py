"""Bytes on sockets: the line protocol that every port speaks, and the transport under it."""
