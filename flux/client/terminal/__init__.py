"""``flux chat``: the terminal client.

::

    Screen (prompt_toolkit) <──lines, keys── person
       ↑ show, read                            a line ──> commands: table, completion
       │                                                    ↓
    start: menu ──> Chat: what a line and an event mean ──> flux.client
                      ├── Roster: who and what there is, by name and by id
                      └── render: all of it as styled text

With ``--gate``, ``entrance`` takes the place of ``start``: it logs in, registers and resets
passwords over HTTP.  Only ``screen`` knows prompt_toolkit; everything else is tested without a terminal.
Text that others wrote passes :func:`flux.client.terminal.text.clean` on its way to
the screen: nothing a peer or a server sends can control the terminal.
"""
