//! Hazard tests: one file a hazard under `tests/`, public API only.
