"""The storage root, one URI below which all large data is: its layout, its interface, an adapter per URI scheme."""
