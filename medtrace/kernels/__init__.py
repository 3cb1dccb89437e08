"""The hot operations, each in a compiled CPU version and a plain torch version that agree."""
