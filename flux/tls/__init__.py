"""TLS on both sides of a connection.

``identity``  a certificate and its key: read from files, and checked
``layer``     TLS as a protocol between a socket and another protocol, with deadlines
``server``    the certificate of the moment, around factories that listen
``client``    connections to a server whose certificate is checked

::

    socket ── [PROXY header] ── TlsLayer ── the protocol that speaks over it
"""
