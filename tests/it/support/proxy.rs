//! A fluent proxy under test.
