"""Operations: how a process is, and what an admin can do with it.

::

    AdminService ── Health      whether store, shared state and bus answer; what keeps this process from being ready
                 ├─ History     samples of the metrics, for the curves of the dashboard
                 ├─ Actions     sessions, accounts, draining, the configuration
                 ├─ Banning     who is kept out
                 └─ AdminSite   all of it over HTTP: /metrics, /healthz, /readyz, /api/..., the dashboard at /
    Manhole                     a Python prompt over SSH, where it is wanted

It knows the services by what it needs of them (``sources``), and works for whichever of them run in this process.
"""
