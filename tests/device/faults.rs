//! Faults planted on purpose, one of each kind, in a program of its own: the software device sees each of them.
