"""Everything big is a URI under one storage root: layout (which path is whose) and root (open, atomic publish)."""
