"""How well and how sure: measured, verified, simulated.

``flux bench``    ``load`` drives a server over raw sockets and checks every line that comes back; ``scenarios``
                  decides what load; ``servers`` starts what is measured, ``relay`` is what it is measured against
``flux verify``   ``conversation`` talks and records, whatever ``verification`` does to the ``installation``: a server,
                  or a ``cluster`` with ``engines`` and breakable ``links``, in which faults may be ``overlapping`` as
                  ``chaos`` has drawn them; ``checker`` judges
``placement``     balancers simulated on the status service itself
"""
