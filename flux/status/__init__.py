"""Which chat servers live, which one a user gets, and the tokens to log in there with."""
