"""The page of a folder that a command wrote; see `wsitool.pages.write`."""
