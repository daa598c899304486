"""What is known: settings, the store, the registry, artifacts, the catalog. Imports neither a web framework nor torch."""
