"""Public stateless operations, one file each: check, choose a backend, assemble the answer."""
