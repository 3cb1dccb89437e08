"""Lists of files that belong together: pair lists, image lists, layouts of data sets, splits by subject."""
