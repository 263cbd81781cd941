//! The tower layer.

pub mod attempt;
pub mod body;
pub mod budget;
pub mod policy;
pub mod refusal;
