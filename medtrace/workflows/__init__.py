"""One function per command, each in the module of its name; the most used are also at the front door, `medtrace`."""
