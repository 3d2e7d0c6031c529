"""Files: atomic and durable writes of stored files, and reads of them."""
