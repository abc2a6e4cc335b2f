"""Accounts, the same on every port: who may register, who somebody is, whose an e-mail address is.

::

    accounts   registering, logging in, resetting a password: the steps, in their order
    codes      verification codes: given, and tried
    passwords  hashing, off the reactor          turns      whose password is next
    throttle   failures, per account and address
    pace       how fast an account may go on
    rules      what names, passwords and addresses may look like
"""
