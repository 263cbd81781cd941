//! Private Redis servers on free ports.
