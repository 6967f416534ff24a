"""Where state and bytes are kept: interfaces in `base`, one file for each kind."""
