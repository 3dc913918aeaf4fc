"""The engine: one fit, many fits as lanes, and the one loop over them."""
