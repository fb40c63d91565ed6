"""`lit-store`: looking into a store, checking it, estimating the next one."""
