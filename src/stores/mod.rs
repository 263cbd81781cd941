//! The stores.

#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
pub mod late;
pub mod memory;
#[cfg(feature = "redis")]
pub mod redis;
#[cfg(feature = "sqlite")]
pub mod sqlite;
pub mod url;
