"""One function per command, each in the module of its name; the most used are also exported by `medtrace`."""
