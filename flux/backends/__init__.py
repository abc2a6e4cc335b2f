"""Implementations of the interfaces, one file each; only ``flux.assembly`` names them."""
