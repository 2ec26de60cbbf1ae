"""acnet_pl."""
