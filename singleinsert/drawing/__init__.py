"""Pictures of results: typeface, tiles, grids and sheets. Plain data in, pictures out; nothing here knows a run."""
