"""Access: the Tuist server's decisions on tokens, and the memory of them."""
