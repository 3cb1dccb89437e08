"""Defense against what comes from elsewhere: headers, weights, configurations, sizes, fragile readers."""
