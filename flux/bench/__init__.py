"""How well and how sure: the load generator, the delivery checker, the balancer simulation.

``load`` drives a server over raw sockets and checks every line that comes back;
``scenarios`` decides what load; ``servers`` starts what is measured, ``relay`` is what it is
measured against.  ``checker`` judges recorded conversations, ``chatter`` records them.
"""
