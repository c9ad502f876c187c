"""The reference team's Feast repository: entities, views and the feature service."""
