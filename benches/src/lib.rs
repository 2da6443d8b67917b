//! Criterion suites, one file a hop.
