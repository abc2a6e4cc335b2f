"""The gate: HTTP for people who register, log in, and look for their chat server.

::

    Site ── Channel     one connection: limits on headers, bodies and time
     │  └── GateRequest one request: whose it is, and what went wrong in the site's own words
     ├── Route          the API's paths: decode, call, encode          <── api, classic: what each request does
     └── root           the resource tree for everything else (other modules put their children there)

    Gate          what the requests share: accounts, placement, mailer
    Verification  codes, and what the e-mail with them says
    StatusClient  placement by status services elsewhere
    openapi       the document that describes the API, made from its structs
"""
