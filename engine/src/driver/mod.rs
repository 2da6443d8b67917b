//! The real drivers.
