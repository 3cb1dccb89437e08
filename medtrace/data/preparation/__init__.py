"""From scans to a data set's images: what is learned of intensities, and how a case is read."""
