"""Who may do what: what the Tuist server says of tokens, and what is remembered of that."""
