//! Restore: vault to live system, whole or by path; and export as a tar stream.
